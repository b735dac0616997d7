"""Prediction with a network that was trained with contexts, by what it was trained on."""

from __future__ import annotations

from pathlib import Path

from segmend.context.inference import predict_volumes
from segmend.context.networks import load_context
from segmend.context.sets import cases_to_predict
from segmend.data.volumes import VolumeSet
from segmend.engine.options import pick_device
from segmend.engine.prediction import predict_folder


def predict_context(
    checkpoint: str | Path,
    images: Path,
    out: Path,
    *,
    threshold: float | None = None,
    probabilities: bool = False,
    suffix: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Predict with what `train_context` wrote: nothing of the contexts is to be seen.

    Pictures: a probability map each, as `segmend predict` writes them. Volumes: a label volume
    each, on the image's grid and with its affine; see `predict_volumes`.

    Args:
        images: a folder of pictures, of NIfTI files, or the root of a described data set, whose
            unlabelled cases are predicted.
        threshold, probabilities: of volumes, as in `predict_volumes`.
        suffix: None: .png, or .npz for many classes; of volumes .nii.gz.
    Raises:
        SegmendError: as in `load_context`, `predict_folder` and `predict_volumes`.
    """
    run = load_context(checkpoint)
    model = run.merged.to(pick_device(run.options.accelerator))
    if run.dimensions == 2:
        return predict_folder(model, images, out, suffix=suffix, resume=resume, progress=progress)
    items = VolumeSet(
        cases_to_predict(images, channels=run.in_channels),
        channels=run.in_channels,
        intensities=run.options.intensities,
        spacing=run.options.spacing,
    )
    return predict_volumes(
        model,
        items,
        out,
        window=run.options.patch,
        threshold=threshold,
        probabilities=probabilities,
        suffix=suffix or ".nii.gz",
        resume=resume,
        progress=progress,
    )
