"""`segmend train`: a small base segmenter from folders of images and masks."""

from __future__ import annotations

from pathlib import Path

import typer


def train(
    images: Path = typer.Option(..., help="Folder of training images."),
    masks: Path = typer.Option(..., help="Folder of their masks."),
    out: Path = typer.Option(..., help="Folder for the model, its curve and a checkpoint."),
    val_images: Path | None = typer.Option(None, help="Folder of validation images."),
    val_masks: Path | None = typer.Option(None, help="Folder of their masks."),
    val_fraction: float | None = typer.Option(
        None, help="Without these: share of the images held out.  [default: 0.2; with folds 0]"
    ),
    architecture: str | None = typer.Option(
        None, help="fpn, unet, or any of smp or torchvision.  [default: fpn]"
    ),
    encoder: str | None = typer.Option(
        None, help="squeezenet1_0 (weights bundled), one of smp, tu-NAME of timm."
    ),
    weights: str | None = typer.Option(
        None, help="bundled, none, or hub (downloaded).  [default: bundled]"
    ),
    num_classes: int | None = typer.Option(None, help="Background included.  [default: 2]"),
    folds: int | None = typer.Option(
        None, help="Also train K models and write out-of-fold maps of all training images."
    ),
    epochs: int | None = typer.Option(None, help="Passes over the images.  [default: 40]"),
    crop: int | None = typer.Option(None, help="Side of the random crops.  [default: 256]"),
    batch_size: int | None = typer.Option(None, help="Crops in a step.  [default: 8]"),
    lr: float | None = typer.Option(None, help="Peak learning rate.  [default: 0.001]"),
    patience: int | None = typer.Option(
        None, help="Stop after so many epochs without a better validation IoU.  [default: never]"
    ),
    seed: int | None = typer.Option(None, help="Of everything random.  [default: 0]"),
    resume: bool = typer.Option(True, help="Go on with an interrupted run in --out."),
    recipe: Path | None = typer.Option(None, help="YAML file of settings, or a run.json."),
    set_: list[str] = typer.Option([], "--set", help="Any setting as key=value; repeatable."),
    progress: bool = typer.Option(True, help="Show a progress bar."),
) -> None:
    """Train a small base segmenter; keep the epoch with the best validation IoU.

    Interrupted with Ctrl-C or killed, the same command goes on where it stopped.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.engine.jobs import TrainJob, train_job

    given = {
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
    job = resolve(TrainJob, recipe, set_, given)
    print_settings(job)
    result = train_job(
        job,
        images,
        masks,
        out,
        val_images=val_images,
        val_masks=val_masks,
        resume=resume,
        progress=progress,
    )
    inputs = {"images": images, "masks": masks, "val_images": val_images, "val_masks": val_masks}
    write_run_record(out, "train", job, {"inputs": inputs, "best": result.best})
    _say(result.best, out, folds=job.folds)


def _say(best: dict[str, float], out: Path, *, folds: int | None) -> None:
    score = f", validation IoU {100 * best['val_iou']:.1f}" if "val_iou" in best else ""
    typer.echo(f"kept epoch {best['epoch']}{score}: {out / 'model.safetensors'}")
    if folds:
        typer.echo(f"out-of-fold maps: {out / 'out_of_fold'}")
    typer.echo(f"next: segmend predict --checkpoint {out} --images DIR --out DIR")
