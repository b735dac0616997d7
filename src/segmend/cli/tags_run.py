"""`segmend tags run`: all stages from tags to pseudo-masks, and on to a segmenter's scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmend.cli.arguments import RECIPE
from segmend.cli.tag_data import CLASSES, DATA, LABELS, MASKS, SPLIT, TAGS, open_folder
from segmend.cli.tags import SHOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from segmend.cli.pipeline import HeldOut, Run
    from segmend.data.tags import TagFolder

PICTURE = "rectified.png"


def run(
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")],
    recipe: RECIPE = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="Train a segmenter on the masks: rectify, rectify-published, rectify-off.",
        ),
    ] = None,
    split: SPLIT = None,
    test_split: Annotated[
        str | None,
        typer.Option(help="VOC layout: what the segmenter predicts; none.  [default: test]"),
    ] = None,
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
        typer.Option(
            help="Redo this stage and those after it: train, cams, affinity, masks, starter, "
            "segmenter or predict."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another run: its predictions in the picture, too.")
    ] = None,
    show_truth: Annotated[
        bool, typer.Option(help="True masks, where the data has them, in the picture of masks.")
    ] = False,
) -> None:
    """From images and tags to pseudo-masks, and with a segmenter to predictions and their scores.

    Every stage is kept: interrupt it, run the same command, and it goes on. Where there are true
    masks, every stage is scored against them in the end; nothing learns from those.
    """
    from segmend.cli.pipeline import run_all
    from segmend.cli.run_options import resolve_run
    from segmend.cli.run_table import show_run
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.tags.pictures import picture_of_cams, picture_of_masks

    options = resolve_run(recipe, set_ or [], segmenter=segmenter, epochs=epochs, seed=seed)
    print_settings(options)
    opened = partial(open_folder, data, classes=classes, labels=labels)
    items = opened(split, tags, with_masks=False)
    truth = _scored(partial(opened, split, tags, masks=masks))
    held_out = None
    if options.segmenter is not None:
        held_out = _held_out(data, split, test_split, partial(opened, tags="masks", masks=masks))
    made = run_all(options, items, out, truth=truth, held_out=held_out, again=again)
    shown = items if truth is None or not show_truth else truth
    masks_made = made.made.masks
    pictures = [
        picture_of_cams(made.made.cams, items, shown=SHOWN),
        picture_of_masks(made.made.cams, masks_made, shown, out / "masks", shown=SHOWN),
        *_pictures_of_predictions(made, truth, held_out, against),
    ]
    inputs = {"data": data, "split": split, "tags": tags, "labels": labels, "masks": masks}
    inputs |= {"test_split": None if held_out is None else held_out.split}
    write_run_record(out, "tags run", options, {"inputs": inputs})
    if made.scores:
        show_run(made.scores, items)
    typer.echo(f"{len(masks_made)} pseudo-masks: {out / 'masks'}")
    for name, folder in made.predicted.items():
        typer.echo(f"predictions of {name}: {folder}")
    for path in pictures:
        typer.echo(f"picture: {path}")
    if options.segmenter is not None:
        typer.echo(f"next: segmend predict --checkpoint {out / 'segmenter'} --images DIR --out DIR")


def _held_out(
    data: Path, split: str | None, test_split: str | None, opened: Callable[..., TagFolder]
) -> HeldOut | None:
    """The images to predict; by default those of a list called test, if there is one."""
    from segmend.cli.pipeline import HeldOut, SplitImages
    from segmend.errors import SegmendError

    lists = data / "ImageSets" / "Segmentation"
    if test_split is None and not (lists / "test.txt").is_file():
        return None
    name = test_split or "test"
    if name == "none":
        return None
    if split in (None, name):
        said = "all images" if split is None else f"--split {split}"
        if test_split is None:
            typer.echo(f"test images not predicted: {said} are trained on", err=True)
            return None
        raise SegmendError(f"--test-split {name}: its images are trained on; say --split train")
    images = SplitImages(data, name)
    return HeldOut(name, images, _scored(partial(opened, name)))


def _scored(opened: Callable[[], TagFolder]) -> TagFolder | None:
    """Images with true masks; None, and a word why, where some have none."""
    from segmend.errors import SegmendError

    try:
        found = opened()
    except SegmendError as error:
        typer.echo(f"not scored: {error}", err=True)
        return None
    return found if all("masks" in match.paths for match in found.matches) else None


def _pictures_of_predictions(
    made: Run, truth: TagFolder | None, held_out: HeldOut | None, against: Path | None
) -> list[Path]:
    """Predictions with out-of-candidate pixels marked, beside another run's if there is one."""
    from segmend.cli.pipeline import TRAIN
    from segmend.rectify.pictures import picture_of_rectification

    true = {TRAIN: truth} | ({} if held_out is None else {held_out.split: held_out.truth})
    paths = []
    for split, folder in made.predicted.items():
        items = true[split]
        if items is None:
            continue
        shown = {} if against is None else {against.name: against / "predict" / split}
        shown["prediction" if against is None else folder.parents[1].name] = folder
        paths.append(picture_of_rectification(items, shown, folder.parent / f"{split}-{PICTURE}"))
    return paths
