"""`segmend predict`: what a trained segmenter makes of a folder of images or volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segmend.cli.arguments import RECIPE, SETS


def predict(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `segmend train` wrote.")],
    images: Annotated[
        Path,
        typer.Option("--images", "--data", help="Folder of images or volumes, of any sizes."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the maps; names as the images'.")],
    suffix: Annotated[
        str | None,
        typer.Option(
            help=".png, .tif, .npy or .npz.  [default: .png (16 bit); many channels .npz]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Neighbouring images of equal size go together.  [default: 8]"),
    ] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Rectified segmenters: labels instead of maps.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Volumes: foreground above it, not argmax.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Volumes: write probabilities, too.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Leave images alone whose map is there.")] = True,
    recipe: RECIPE = None,
    set_: SETS = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Write a probability map for each image (sigmoid of one channel, softmax of many).

    Of volumes, labels on the image's own grid. For honest maps of the training images themselves,
    train with --folds.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.context.networks import DESCRIPTION
    from segmend.rectify.files import FILE

    loop: dict[str, Any] = {"resume": resume, "progress": progress}
    given = {"suffix": suffix, "batch_size": batch_size}
    job: object
    if (checkpoint / DESCRIPTION).is_file():
        from segmend.context.prediction import predict_context

        job = {"suffix": suffix, "threshold": threshold, "probabilities": probabilities}
        print_settings(job)
        written = predict_context(
            checkpoint, images, out, suffix=suffix, threshold=threshold,
            probabilities=probabilities, **loop,
        )  # fmt: skip
    elif (checkpoint / FILE).is_file():
        from segmend.cli.pipeline import refiner
        from segmend.cli.run_options import SegmenterPredictOptions
        from segmend.cli.tag_recipes import resolve_stage
        from segmend.data.folders import SegmentationFolder
        from segmend.errors import SegmendError
        from segmend.rectify.jobs import predict_rectified

        job = resolve_stage("predict", SegmenterPredictOptions, recipe, set_ or [], {})
        if job.tags_from == "classifier":
            raise SegmendError("tags_from: classifier is only known to `segmend tags run`")
        print_settings(job)
        written = predict_rectified(
            job, checkpoint, SegmentationFolder(images), out, masks=masks, refine=refiner(job),
            **loop,
        )  # fmt: skip
    else:
        from segmend.engine.jobs import PredictJob, predict_job

        job = resolve(PredictJob, recipe, set_ or [], given)
        print_settings(job)
        written = predict_job(job, checkpoint, images, out, **loop)
    inputs = {"checkpoint": checkpoint, "images": images}
    write_run_record(out, "predict", job, {"inputs": inputs})
    typer.echo(f"{len(written)} {'masks' if masks else 'probability maps'}: {out}")
