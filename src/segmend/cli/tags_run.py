"""`segmend tags run`: all stages from tags to pseudo-masks with one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmend.cli.arguments import RECIPE
from segmend.cli.tags import CLASSES, DATA, LABELS, MASKS, SHOWN, SPLIT, TAGS, open_folder

if TYPE_CHECKING:
    from segmend.data.tags import TagFolder


def run(
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")],
    recipe: RECIPE = None,
    split: SPLIT = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    masks: MASKS = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Such as masks.constant=0.2."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the classifier's training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    again: Annotated[
        str | None,
        typer.Option(help="Redo this stage and those after it: train, cams, affinity or masks."),
    ] = None,
    show_truth: Annotated[
        bool, typer.Option(help="True masks, where the data has them, in the picture.")
    ] = False,
) -> None:
    """From images and tags to pseudo-masks: train, draw maps, learn affinities, make masks.

    Every stage is kept: interrupt it, run the same command, and it goes on. Where there are true
    masks, maps and pseudo-masks are scored against them in the end; nothing learns from those.
    """
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.cli.tag_recipes import resolve_pipeline
    from segmend.cli.tag_scores import show
    from segmend.errors import SegmendError
    from segmend.tags.pictures import picture_of_cams, picture_of_masks
    from segmend.tags.pipeline import STAGES, run_pipeline

    stage = next((s for s in STAGES if s == again), None)
    if again is not None and stage is None:
        raise SegmendError(f"--again: want one of {', '.join(STAGES)}, got {again!r}")
    options = resolve_pipeline(recipe, set_ or [], epochs=epochs, seed=seed)
    print_settings(options)
    items = open_folder(data, split, tags, classes, labels, with_masks=False)
    truth = _truth(data, split, tags, classes, labels, masks)
    made = run_pipeline(options, items, out, truth=truth, again=stage)
    shown = items if truth is None or not show_truth else truth
    pictures = (
        picture_of_cams(made.cams, items, shown=SHOWN),
        picture_of_masks(made.cams, made.masks, shown, out / "masks", shown=SHOWN),
    )
    inputs = {"data": data, "split": split, "tags": tags, "labels": labels, "masks": masks}
    write_run_record(out, "tags run", options, {"inputs": inputs})
    for what, scores in made.scores.items():
        typer.echo(f"{what}:")
        show(scores, items)
    typer.echo(f"{len(made.masks)} pseudo-masks: {out / 'masks'}")
    for path in pictures:
        typer.echo(f"picture: {path}")


def _truth(
    data: Path,
    split: str | None,
    tags: str | None,
    classes: Path | None,
    labels: str | None,
    masks: Path | None,
) -> TagFolder | None:
    """The same images with true masks; None, and a word why, where some have none."""
    from segmend.errors import SegmendError

    try:
        found = open_folder(data, split, tags, classes, labels, masks)
    except SegmendError as error:
        typer.echo(f"not scored: {error}", err=True)
        return None
    return found if all("masks" in match.paths for match in found.matches) else None
