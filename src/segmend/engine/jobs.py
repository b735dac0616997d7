"""Whole jobs on folders: train a base, or predict with one. The command line adds only words."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from segmend.data.folders import SegmentationFolder
from segmend.engine.checkpoints import load_segmenter
from segmend.engine.crops import ItemSet
from segmend.engine.crossfit import cross_fit
from segmend.engine.options import Precision, TrainOptions, pick_device
from segmend.engine.prediction import Part, predict_folder
from segmend.engine.seeds import seed_everything
from segmend.engine.training import TrainResult, train_segmenter
from segmend.errors import SegmendError
from segmend.models.segmenters import Segmenter, Weights, build_segmenter


class TrainJob(TrainOptions):
    """Settings of `segmend train`: the training options, the model, and the division of the set."""

    architecture: str = Field("fpn", description="fpn, unet, or a name of smp or torchvision.")
    encoder: str = Field("squeezenet1_0", description="Or a name of smp, or tu- and one of timm.")
    weights: Weights = "bundled"
    num_classes: int = Field(2, ge=2, le=255, description="Background included.")
    val_fraction: float | None = Field(
        None, ge=0, lt=1, description="Without a validation folder; none: 0.2, with folds 0."
    )
    folds: int | None = Field(None, ge=2, description="Also write out-of-fold maps from K models.")

    @property
    def channels(self) -> int:
        """Logit channels: one in a binary problem."""
        return 1 if self.num_classes == 2 else self.num_classes

    def training(self) -> TrainOptions:
        """The options of the training alone."""
        return TrainOptions(**self.model_dump(include=set(TrainOptions.model_fields)))


class PredictJob(BaseModel):
    """Settings of `segmend predict`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suffix: str | None = Field(None, description="None: .png (16 bit), .npz for many channels.")
    batch_size: int = Field(8, ge=1)
    precision: Precision = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"


def train_job(
    job: TrainJob,
    images: Path,
    masks: Path,
    out: Path,
    *,
    val_images: Path | None = None,
    val_masks: Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a base on folders; with `job.folds` also write `out`/out_of_fold.

    Raises:
        SegmendError: one of the two validation folders missing, a validation share that leaves
            no image, and as in `train_segmenter`, `cross_fit` and `build_segmenter`.
    """
    if (val_images is None) != (val_masks is None):
        given, missing = ("val_images", "val_masks")[:: 1 if val_images else -1]
        raise SegmendError(f"{missing}: want both folders or neither, got only {given}")
    train_set: ItemSet = _folder(job, images, masks)
    val_set: ItemSet | None = None
    if val_images is not None and val_masks is not None:
        val_set = _folder(job, val_images, val_masks)
    else:
        train_set, val_set = split_off(train_set, fraction=_val_share(job), seed=job.seed)
    options = job.training()
    if job.folds is None:
        seed_everything(job.seed)
        return train_segmenter(
            _build(job), train_set, val_set, options=options, out=out,
            resume=resume, progress=progress,
        )  # fmt: skip
    result = cross_fit(
        lambda: _build(job), train_set, val_set=val_set, folds=job.folds, options=options,
        seed=job.seed, out=out, resume=resume, progress=progress,
    ).final  # fmt: skip
    assert result is not None
    return result


def predict_job(
    job: PredictJob,
    checkpoint: Path,
    images: Path,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write a probability map for each image of a folder; see `predict_folder`."""
    model, _ = load_segmenter(checkpoint)
    return predict_folder(
        model,
        images,
        out,
        suffix=job.suffix,
        batch_size=job.batch_size,
        precision=job.precision,
        device=pick_device(job.accelerator),
        resume=resume,
        progress=progress,
    )


def split_off(items: ItemSet, *, fraction: float, seed: int) -> tuple[ItemSet, ItemSet | None]:
    """(training, validation): a seeded share of the items, at least one where `fraction` > 0.

    Both keep the items' order. `fraction` 0 gives no validation set.
    """
    if fraction == 0:
        return items, None
    count = len(items)
    share = max(1, round(count * fraction))
    if share >= count:
        raise SegmendError(
            f"val_fraction: {fraction} of {count} image(s) leaves none to train on; give a "
            "validation folder (--val-images, --val-masks) or val_fraction=0"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return Part(items, sorted(order[share:])), Part(items, sorted(order[:share]))


def _folder(job: TrainJob, images: Path, masks: Path) -> SegmentationFolder:
    return SegmentationFolder(
        images, masks, num_classes=job.num_classes, ignore_index=job.ignore_index
    )


def _val_share(job: TrainJob) -> float:
    if job.val_fraction is not None:
        return job.val_fraction
    return 0.0 if job.folds else 0.2


def _build(job: TrainJob) -> Segmenter:
    return build_segmenter(
        job.architecture, encoder=job.encoder, num_classes=job.channels, weights=job.weights
    )
