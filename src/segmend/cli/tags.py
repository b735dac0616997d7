"""`segmend tags`: from image tags to class activation maps to pseudo-masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segmend.cli.arguments import RECIPE, SETS
from segmend.cli.tag_data import MASKS, DataSet, takes_data

SHOWN = 6
"""Images in the picture that `cams` and `masks` draw."""

RESUME = Annotated[bool, typer.Option(help="Keep what an earlier run has finished.")]


@takes_data
def train(
    folder: DataSet,
    out: Annotated[Path, typer.Option(help="Folder for the network and its curve.")],
    val_split: Annotated[
        str | None, typer.Option(help="VOC layout: list whose loss is shown after each epoch.")
    ] = None,
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
    items = folder.open()
    val = folder.open(split=val_split) if val_split else None
    result = train_tags(options, items, out, val=val, resume=resume)
    inputs = folder.inputs()
    write_run_record(out, "tags train", options, {"inputs": inputs, "last": result.curve[-1]})
    typer.echo(f"{len(items)} images, {items.num_tags} classes to tag; network: {out}")
    typer.echo(f"next: segmend tags cams --run {out} --data {folder.data} --out DIR")


@takes_data
def cams(
    run: Annotated[Path, typer.Option(help="Folder that `segmend tags train` wrote.")],
    folder: DataSet,
    out: Annotated[Path, typer.Option(help="Folder for one NPZ of maps an image.")],
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
    items = folder.open()
    paths = draw_cams(options, run, items, out, resume=resume)
    picture = picture_of_cams(out, items, shown=SHOWN)
    inputs = {"run": run, **folder.inputs()}
    write_run_record(out, "tags cams", options, {"inputs": inputs})
    typer.echo(f"{len(paths)} files of maps: {out}\npicture: {picture}")
    typer.echo(f"next: segmend tags masks --cams {out} --data {folder.data} --out DIR")


@takes_data
def affinity(
    run: Annotated[Path, typer.Option(help="Folder that `segmend tags train` wrote.")],
    cams: Annotated[Path, typer.Option(help="Folder that `segmend tags cams` wrote.")],
    folder: DataSet,
    out: Annotated[Path, typer.Option(help="Folder for the network and its labels.")],
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
    items = folder.open()
    train_affinity(options, run, cams, items, out, resume=resume)
    inputs = {"run": run, "cams": cams, **folder.inputs()}
    write_run_record(out, "tags affinity", options, {"inputs": inputs})
    typer.echo(f"network: {out}")
    typer.echo(
        f"next: segmend tags masks --cams {cams} --affinity {out} --data {folder.data} --out DIR"
    )


@takes_data
def masks(
    cams: Annotated[Path, typer.Option(help="Folder that `segmend tags cams` wrote.")],
    folder: DataSet,
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
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
    from segmend.tags.background_choice import CHOICE
    from segmend.tags.jobs import make_masks
    from segmend.tags.options import MaskOptions
    from segmend.tags.pictures import picture_of_masks

    options = resolve_stage(
        "masks", MaskOptions, recipe, set_ or [], {"refine": refine, "constant": constant}
    )
    print_settings(options)
    items = folder.open(with_masks=show_truth)
    paths = make_masks(options, cams, items, out, affinity=affinity, resume=resume)
    picture = picture_of_masks(cams, paths, items, out, shown=SHOWN)
    inputs = {"cams": cams, "affinity": affinity, **folder.inputs()}
    write_run_record(out, "tags masks", options, {"inputs": inputs})
    if (out / CHOICE).exists():
        typer.echo(f"background score, chosen by colours: {out / CHOICE}")
    typer.echo(f"{len(paths)} pseudo-masks: {paths[0].parent}\npicture: {picture}")


@takes_data
def evaluate(
    folder: DataSet,
    cams: Annotated[Path | None, typer.Option(help="Activation maps to score.")] = None,
    pred: Annotated[Path | None, typer.Option(help="Or masks to score.")] = None,
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
    items = folder.open(masks=masks, with_masks=True)
    if cams is not None:
        scores = evaluate_cams(cams, items, constant=constant)
    else:
        assert pred is not None
        scores = evaluate_masks(pred, items)
    show(scores, items)
    if out is not None:
        write_json(out, {**scores.summary(), "classes": list(items.classes)})
