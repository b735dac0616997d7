"""`segmend data`: make data where real data is missing or may not be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    count: Annotated[int, typer.Option(help="Images to draw.", min=1)] = 100,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 96,
    num_classes: Annotated[int, typer.Option(help="Classes, background included.")] = 5,
    seed: Annotated[int, typer.Option(help="Image i of a seed is always the same.")] = 0,
) -> None:
    """Write procedural images, masks and tags in the PASCAL VOC layout."""
    from segmend.cli.settings import write_run_record
    from segmend.data.scenes import write_scenes

    write_scenes(out, count, size=(size, size), num_classes=num_classes, seed=seed)
    settings = {"count": count, "size": size, "num_classes": num_classes, "seed": seed}
    write_run_record(out, "data scenes", settings)
    typer.echo(f"{count} scenes of {num_classes} classes written to {out}")
