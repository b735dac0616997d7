"""`segmend data sbd`: the augmented split of VOC 2012 from Berkeley's annotations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def sbd(
    voc: Annotated[
        Path, typer.Argument(help="The folder VOC2012, as `data get voc2012` leaves it.")
    ],
    source: Annotated[
        Path, typer.Option("--from", help="SBD's benchmark_RELEASE, as `data get sbd` leaves it.")
    ],
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Write SBD's masks and the list train_aug beside VOC's own: 10,582 images to train on.

    What is broken off goes on where it stopped when the same command is run again.
    """
    from segmend.cli.data import _live_bar
    from segmend.data.sbd import LABELS, write_sbd

    with _live_bar(progress) as show:
        names = write_sbd(voc, source, on_image=partial(show, "masks"))
    typer.echo(f"{len(names)} images in the list train_aug; masks: {voc / LABELS}")
