"""`segmend train`: a segmenter from images and masks, plain or with a method of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from segmend.engine.training import TrainResult


def train(
    images: Annotated[
        Path,
        typer.Option("--images", "--data", help="Folder of images; VOC or dataset.json root."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model, its curve and a checkpoint.")],
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks, if the data's layout has none.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of validation images.")] = None,
    val_masks: Annotated[Path | None, typer.Option(help="Folder of their masks.")] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Without these: share held out.  [default: 0.2; folds, rectify 0]"),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="CoLab: K classes of background, against leaks.")
    ] = None,
    context_method: Annotated[
        str | None,
        typer.Option(
            help="learned, plain, kmeans, dilate, bands, maps, random.  [default: learned]"
        ),
    ] = None,
    context_maps: Annotated[
        Path | None,
        typer.Option(help="context: folder of your own labels of the background, from 0."),
    ] = None,
    rectify: Annotated[
        bool, typer.Option("--rectify", help="OCR: no class that the image's tags do not name.")
    ] = False,
    tags: Annotated[
        Path | None, typer.Option(help="rectify: tags of each image (.csv, .json, .npy).")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="rectify: file of class names.")] = None,
    split: Annotated[
        str | None, typer.Option(help="rectify, VOC layout: images to train on.")
    ] = None,
    val_split: Annotated[
        str | None, typer.Option(help="rectify, VOC layout: images to validate on.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="rectify, VOC layout: folder of the true masks.")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="rectify: run of `segmend tags train` to start from.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="fpn, unet, or any of smp or torchvision.  [default: fpn]")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="squeezenet1_0 (weights bundled), of smp, tu-NAME of timm.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="bundled, none, or hub (downloaded).  [default: bundled]")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Background included.  [default: 2]")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Also train K models and write out-of-fold maps of all images."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images.  [default: 40; rectify 20]")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="Side of the random crops of pictures.  [default: 256]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops in a step.  [default: 8]")] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate.  [default: 0.001; context 0.01; rectify 0.0005]"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many epochs without a better validation IoU."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run in --out.")] = True,
    recipe: RECIPE = None,
    set_: SETS = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a segmenter; keep the epoch with the best validation IoU.

    Plain; with --context its background is learned as several classes (pictures and volumes); with
    --rectify pixels are kept off classes that the image's tags do not name. Interrupted with
    Ctrl-C or killed, the same command goes on where it stopped.
    """
    settings = {
        "val_fraction": val_fraction,
        "architecture": architecture,
        "encoder": encoder,
        "weights": weights,
        "num_classes": num_classes,
        "folds": folds,
        "epochs": epochs,
        "crop": crop,
        "batch_size": batch_size,
        "lr": lr,
        "patience": patience,
        "seed": seed,
    }
    inputs = {
        "images": images,
        "masks": masks,
        "val_images": val_images,
        "val_masks": val_masks,
        "context_maps": context_maps,
        "tags": tags,
        "classes": classes,
        "split": split,
        "val_split": val_split,
        "labels": labels,
        "classifier": classifier,
    }
    asked = _Asked(settings, inputs, recipe, set_ or [], out, resume=resume, progress=progress)
    by_context = context is not None or context_method is not None or context_maps is not None
    if rectify and by_context:
        asked.refuse(["context"], "--rectify", {"context": True})
    if rectify:
        _train_rectified(asked)
    elif by_context:
        _train_context(asked, context, context_method)
    else:
        _train_base(asked)


class _Asked:
    """What was typed: settings, inputs and where to write."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        recipe: Path | None,
        sets: list[str],
        out: Path,
        *,
        resume: bool,
        progress: bool,
    ) -> None:
        self.settings, self.inputs = dict(settings), dict(inputs)
        self.recipe, self.sets, self.out = recipe, sets, out
        self.loop: dict[str, Any] = {"resume": resume, "progress": progress}

    def resolve(
        self, options_class: Any, how: Callable[..., Any] | None = None, **more: object
    ) -> Any:
        """The options of the method, printed; `how` is `resolve`, or reads recipes as it does."""
        from segmend.cli.settings import print_settings, resolve

        how = how or resolve
        options = how(options_class, self.recipe, self.sets, {**self.settings, **more})
        print_settings(options)
        return options

    def take(self, *names: str) -> dict[str, Any]:
        """These inputs; the others must not have been given."""
        left = {name: value for name, value in self.inputs.items() if name not in names}
        self.refuse(list(left), "this kind of training", left)
        return {name: self.inputs[name] for name in names}

    def refuse(self, names: list[str], kind: str, given: Mapping[str, Any]) -> None:
        from segmend.errors import SegmendError

        for name in names:
            if given.get(name) is not None:
                raise SegmendError(f"--{name.replace('_', '-')}: not possible with {kind}")

    def finish(self, options: Any, result: TrainResult, *, folds: int | None = None) -> None:
        """The record, and what to say."""
        from segmend.cli.settings import write_run_record

        best = result.best
        inputs = {name: value for name, value in self.inputs.items() if value is not None}
        write_run_record(self.out, "train", options, {"inputs": inputs, "best": best})
        score = f", validation IoU {100 * best['val_iou']:.1f}" if "val_iou" in best else ""
        typer.echo(f"kept epoch {best['epoch']}{score}: {self.out / 'model.safetensors'}")
        if folds:
            typer.echo(f"out-of-fold maps: {self.out / 'out_of_fold'}")
        typer.echo(f"next: segmend predict --checkpoint {self.out} --images DIR --out DIR")


def _train_base(asked: _Asked) -> None:
    from segmend.engine.jobs import TrainJob, train_job
    from segmend.errors import SegmendError

    inputs = asked.take("images", "masks", "val_images", "val_masks")
    if inputs["masks"] is None:
        raise SegmendError("--masks: is missing; only --context and --rectify know other layouts")
    job = asked.resolve(TrainJob)
    images, masks = inputs.pop("images"), inputs.pop("masks")
    result = train_job(job, images, masks, asked.out, **inputs, **asked.loop)
    asked.finish(job, result, folds=job.folds)


def _train_context(asked: _Asked, context: int | None, method: str | None) -> None:
    from segmend.context.jobs import run_context
    from segmend.context.options import ContextOptions

    inputs = asked.take("images", "masks", "val_images", "val_masks", "context_maps")
    asked.refuse(["folds"], "--context", asked.settings)
    network = asked.settings.pop("architecture")
    del asked.settings["folds"]
    if method is None and context == 1:
        method = "plain"
    elif method is None and inputs["context_maps"] is not None:
        method = "maps"
    options = asked.resolve(ContextOptions, num_context=context, method=method, network=network)
    images, masks = inputs.pop("images"), inputs.pop("masks")
    asked.finish(options, run_context(options, images, masks, asked.out, **inputs, **asked.loop))


def _train_rectified(asked: _Asked) -> None:
    from segmend.cli.tag_recipes import resolve_stage
    from segmend.rectify.jobs import train_rectified_folder
    from segmend.rectify.options import RectifyOptions

    inputs = asked.take(
        "images", "masks", "tags", "classes", "split", "val_split", "labels", "classifier"
    )
    asked.refuse(["folds", "num_classes"], "--rectify", asked.settings)
    for name in ("folds", "num_classes"):
        del asked.settings[name]
    share = asked.settings.pop("val_fraction") or 0.0
    # A recipe of `segmend tags run` has a section for its segmenter.
    options = asked.resolve(RectifyOptions, partial(resolve_stage, "segmenter"))
    data = inputs.pop("images")
    asked.finish(
        options,
        train_rectified_folder(
            options, data, asked.out, **inputs, val_fraction=share, **asked.loop
        ),
    )
