"""`segmend tags`: from image tags to class activation maps to pseudo-masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from segmend.data.tags import TagFolder

SHOWN = 6
"""Images in the picture that `cams` and `masks` draw."""

DATA = Annotated[
    Path, typer.Option(help="Folder in the VOC layout, or of images with a tags.csv or tags.json.")
]
SPLIT = Annotated[str | None, typer.Option(help="VOC layout: the list to follow, such as train.")]
TAGS = Annotated[
    str | None,
    typer.Option(help="File of tags (CSV, JSON, NPY), folder of VOC boxes, or the word masks."),
]
CLASSES = Annotated[Path | None, typer.Option(help="File of class names, one a line, or JSON.")]
LABELS = Annotated[
    str | None, typer.Option(help="VOC layout: folder of true masks.  [default: SegmentationClass]")
]
MASKS = Annotated[Path | None, typer.Option(help="Folder of true masks, if not in the VOC layout.")]
RESUME = Annotated[bool, typer.Option(help="Keep what an earlier run has finished.")]


def train(
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for the network and its curve.")],
    split: SPLIT = None,
    val_split: Annotated[
        str | None, typer.Option(help="VOC layout: list whose loss is shown after each epoch.")
    ] = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    recipe: RECIPE = None,
    set_: SETS = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    resume: RESUME = True,
) -> None:
    """Train a tag classifier whose activation maps become masks. No mask is used."""
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.cli.tag_recipes import resolve_stage
    from segmend.tags.jobs import train_tags
    from segmend.tags.options import TagOptions

    options = resolve_stage(
        "train", TagOptions, recipe, set_ or [], {"epochs": epochs, "seed": seed}
    )
    print_settings(options)
    items = open_folder(data, split, tags, classes, labels, with_masks=False)
    val = None
    if val_split:
        val = open_folder(data, val_split, tags, classes, labels, with_masks=False)
    result = train_tags(options, items, out, val=val, resume=resume)
    inputs = {"data": data, "split": split, "tags": tags, "labels": labels}
    write_run_record(out, "tags train", options, {"inputs": inputs, "last": result.curve[-1]})
    typer.echo(f"{len(items)} images, {items.num_tags} classes to tag; network: {out}")
    typer.echo(f"next: segmend tags cams --run {out} --data {data} --out DIR")


def cams(
    run: Annotated[Path, typer.Option(help="Folder that `segmend tags train` wrote.")],
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for one NPZ of maps an image.")],
    split: SPLIT = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    maps: Annotated[
        str | None, typer.Option(help="Whose maps: cam, the method's own, or grad-cam, layer-cam …")
    ] = None,
    tags_from: Annotated[
        str | None,
        typer.Option(help="Whose tags: data, network (the run's own), or another run's folder."),
    ] = None,
    recipe: RECIPE = None,
    set_: SETS = None,
    resume: RESUME = True,
) -> None:
    """Draw the activation maps of every image's tags, over several scales and mirrored."""
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.cli.tag_recipes import resolve_stage
    from segmend.tags.jobs import draw_cams
    from segmend.tags.options import CamOptions
    from segmend.tags.pictures import picture_of_cams

    given = {"maps": maps, "tags_from": tags_from}
    options = resolve_stage("cams", CamOptions, recipe, set_ or [], given)
    print_settings(options)
    items = open_folder(data, split, tags, classes, labels, with_masks=False)
    paths = draw_cams(options, run, items, out, resume=resume)
    picture = picture_of_cams(out, items, shown=SHOWN)
    inputs = {"run": run, "data": data, "split": split, "tags": tags, "labels": labels}
    write_run_record(out, "tags cams", options, {"inputs": inputs})
    typer.echo(f"{len(paths)} files of maps: {out}\npicture: {picture}")
    typer.echo(f"next: segmend tags masks --cams {out} --data {data} --out DIR")


def affinity(
    run: Annotated[Path, typer.Option(help="Folder that `segmend tags train` wrote.")],
    cams: Annotated[Path, typer.Option(help="Folder that `segmend tags cams` wrote.")],
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for the network and its labels.")],
    split: SPLIT = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    method: Annotated[
        Literal["affinitynet", "irn"] | None, typer.Option(help="[default: affinitynet]")
    ] = None,
    recipe: RECIPE = None,
    set_: SETS = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    resume: RESUME = True,
) -> None:
    """Learn from maps which pixels belong together; masks then spread along that."""
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.cli.tag_recipes import resolve_stage
    from segmend.tags.affinity_jobs import AffinityOptions, train_affinity

    given = {"method": method, "epochs": epochs, "seed": seed}
    options = resolve_stage("affinity", AffinityOptions, recipe, set_ or [], given)
    print_settings(options)
    items = open_folder(data, split, tags, classes, labels, with_masks=False)
    train_affinity(options, run, cams, items, out, resume=resume)
    inputs = {"run": run, "cams": cams, "data": data, "split": split, "labels": labels}
    write_run_record(out, "tags affinity", options, {"inputs": inputs})
    typer.echo(f"network: {out}")
    typer.echo(f"next: segmend tags masks --cams {cams} --affinity {out} --data {data} --out DIR")


def masks(
    cams: Annotated[Path, typer.Option(help="Folder that `segmend tags cams` wrote.")],
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    split: SPLIT = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    recipe: RECIPE = None,
    set_: SETS = None,
    affinity: Annotated[
        Path | None, typer.Option(help="Folder that `segmend tags affinity` wrote.")
    ] = None,
    refine: Annotated[
        Literal["crf", "pamr", "none"] | None, typer.Option(help="How maps meet the image.")
    ] = None,
    constant: Annotated[float | None, typer.Option(help="Background score, 0 to 1.")] = None,
    show_truth: Annotated[
        bool, typer.Option(help="True masks, where the data has them, in the picture.")
    ] = False,
    resume: RESUME = True,
) -> None:
    """Turn activation maps into pseudo-masks that a segmenter can be trained on."""
    from segmend.cli.settings import print_settings, write_run_record
    from segmend.cli.tag_recipes import resolve_stage
    from segmend.tags.jobs import make_masks
    from segmend.tags.options import MaskOptions
    from segmend.tags.pictures import picture_of_masks

    options = resolve_stage(
        "masks", MaskOptions, recipe, set_ or [], {"refine": refine, "constant": constant}
    )
    print_settings(options)
    items = open_folder(data, split, tags, classes, labels, with_masks=show_truth)
    paths = make_masks(options, cams, items, out, affinity=affinity, resume=resume)
    picture = picture_of_masks(cams, paths, items, out, shown=SHOWN)
    inputs = {"cams": cams, "affinity": affinity, "data": data, "split": split, "labels": labels}
    write_run_record(out, "tags masks", options, {"inputs": inputs})
    typer.echo(f"{len(paths)} pseudo-masks: {paths[0].parent}\npicture: {picture}")


def evaluate(
    data: DATA,
    cams: Annotated[Path | None, typer.Option(help="Activation maps to score.")] = None,
    pred: Annotated[Path | None, typer.Option(help="Or masks to score.")] = None,
    split: SPLIT = None,
    tags: TAGS = None,
    classes: CLASSES = None,
    labels: LABELS = None,
    masks: MASKS = None,
    constant: Annotated[
        float | None, typer.Option(help="Background score of maps.  [default: the best one here]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Score activation maps or pseudo-masks against true masks."""
    from segmend.cli.tag_scores import show
    from segmend.data.files import write_json
    from segmend.errors import SegmendError
    from segmend.tags.evaluation import evaluate_cams, evaluate_masks

    if (cams is None) == (pred is None):
        raise SegmendError("evaluate: give either --cams DIR or --pred DIR")
    items = open_folder(data, split, tags, classes, labels, masks)
    if cams is not None:
        scores = evaluate_cams(cams, items, constant=constant)
    else:
        assert pred is not None
        scores = evaluate_masks(pred, items)
    show(scores, items)
    if out is not None:
        write_json(out, {**scores.summary(), "classes": list(items.classes)})


def open_folder(
    data: Path,
    split: str | None,
    tags: str | None,
    classes: Path | None,
    labels: str | None,
    masks: Path | None = None,
    *,
    with_masks: bool = True,
) -> TagFolder:
    """The data set that the options name; masks may be there for some images only if not read."""
    from segmend.data.tags import TagFolder

    return TagFolder(
        data,
        split=split,
        tags=tags,
        classes=classes,
        labels=labels,
        masks=masks,
        with_masks=with_masks,
    )
