"""`segmend predict`: probability maps of a folder of images."""

from __future__ import annotations

from pathlib import Path

import typer


def predict(
    checkpoint: Path = typer.Option(..., help="Folder that `segmend train` wrote."),
    images: Path = typer.Option(..., help="Folder of images, of any sizes."),
    out: Path = typer.Option(..., help="Folder for the maps; names as the images'."),
    suffix: str | None = typer.Option(
        None, help=".png, .tif, .npy or .npz.  [default: .png (16 bit); many channels: .npz]"
    ),
    batch_size: int | None = typer.Option(
        None, help="Neighbouring images of equal size go together.  [default: 8]"
    ),
    resume: bool = typer.Option(True, help="Leave images alone whose map is there."),
    recipe: Path | None = typer.Option(None, help="YAML file of settings, or a run.json."),
    set_: list[str] = typer.Option([], "--set", help="Any setting as key=value; repeatable."),
    progress: bool = typer.Option(True, help="Show a progress bar."),
) -> None:
    """Write a probability map for each image: sigmoid of one channel, softmax of many.

    For honest maps of the training images themselves, train with --folds.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.engine.jobs import PredictJob, predict_job

    job = resolve(PredictJob, recipe, set_, {"suffix": suffix, "batch_size": batch_size})
    print_settings(job)
    written = predict_job(job, checkpoint, images, out, resume=resume, progress=progress)
    inputs = {"checkpoint": checkpoint, "images": images}
    write_run_record(out, "predict", job, {"inputs": inputs})
    typer.echo(f"{len(written)} probability maps: {out}")
