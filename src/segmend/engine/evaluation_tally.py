"""Count one image after another of one folder of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchmetrics import Metric

from segmend.data.folders import check_same_size, fit_channels
from segmend.data.masks import Encoding, read_mask
from segmend.data.probability_maps import read_probabilities
from segmend.errors import SegmendError
from segmend.metrics import (
    BestThreshold,
    CalibrationError,
    ClassScores,
    FScores,
    MaxFMeasure,
    MeanAbsoluteError,
    ThresholdCurve,
    boundary_counts,
    boundary_f,
    dice,
    iou,
    region_counts,
    summarise_classes,
)

MetricName = Literal["region", "contour", "mae", "fmeasure", "calibration", "threshold"]
Kind = Literal["pred", "probs"]


class EvaluationOptions(BaseModel):
    """What to measure, and how.

    num_classes: background included; 2 is a binary problem whose foreground is class 1.
    ignore_index: pixels with this target label count nowhere.
    encoding, pred_encoding: how the files of masks and of predicted masks hold labels; see
        `read_mask`. Where masks have ignored pixels, say "index" rather than "auto".
    threshold: of binary probability maps, used as `probs > threshold`; hard masks need none.
    metrics: which; None means all that the input allows (the last four need probability maps,
        and all of those but `calibration` a binary problem).
    tolerance: of the boundary F, a fraction of the image diagonal (DAVIS).
    num_resamples, level, seed: of the paired bootstrap.
    partial: score the images that have a partner, instead of refusing when one is missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int = Field(default=2, ge=2, le=65535)
    ignore_index: int = 255
    encoding: Encoding = "auto"
    pred_encoding: Encoding = "auto"
    threshold: float = Field(default=0.5, ge=0, le=1)
    metrics: tuple[MetricName, ...] | None = None
    tolerance: float = Field(default=0.008, ge=0, lt=1)
    num_resamples: int = Field(default=2000, ge=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0
    partial: bool = False


@dataclass(frozen=True)
class Scored:
    """One prediction's rows of counts (one an image) and its figures over the set.

    region: int64 (N, C, 3). contour: int64 (N, C, 4), None if not asked for. scores: by name, as
    in `evaluation.TITLES`; NaN where nothing could be scored. class_iou: (C,), pooled.
    """

    folder: Path
    region: Tensor
    contour: Tensor | None
    scores: dict[str, float]
    class_iou: Tensor


class Tally:
    """Rows of counts and streaming metrics of one folder of predictions.

    The rows are one tensor each, made at the start: thousands of small ones, kept while larger
    ones come and go between them, would pin the heap and let it grow by a gigabyte.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        metrics: Sequence[MetricName],
        kind: Kind,
        *,
        num_images: int,
    ) -> None:
        self.options, self.metrics, self.kind = options, metrics, kind
        self.seen = 0
        self.region = torch.zeros(num_images, options.num_classes, 3, dtype=torch.int64)
        self.contour: Tensor | None = None
        if "contour" in metrics:
            self.contour = self.region.new_zeros(num_images, options.num_classes, 4)
        ignore_index = options.ignore_index
        streams: dict[MetricName, Metric] = {
            "mae": MeanAbsoluteError(ignore_index=ignore_index),
            "fmeasure": MaxFMeasure(ignore_index=ignore_index),
            "calibration": CalibrationError(ignore_index=ignore_index),
            "threshold": ThresholdCurve(ignore_index=ignore_index),
        }
        self.streams = {name: stream for name, stream in streams.items() if name in metrics}

    def add(self, path: Path, mask: Path, target: Tensor) -> None:
        """Count one image.

        Args:
            path: the prediction's file. mask: the target's, for messages.
            target: int64 (1, H, W).
        """
        probs = self._read_probs(path) if self.kind == "probs" else None
        labels = self._read_labels(path) if probs is None else self._harden(probs)
        check_same_size(path, labels, mask, target)
        try:
            self._count(labels, probs, target)
        except SegmendError as error:
            raise SegmendError(f"{path} against {mask}: {error}") from error

    def scored(self, folder: Path) -> Scored:
        """Figures over all images added so far."""
        region = self.region[: self.seen]
        contour = None if self.contour is None else self.contour[: self.seen]
        overlap = summarise_classes(region, iou)
        scores = {
            "pooled_iou": float(overlap.pooled),
            "per_image_iou": float(overlap.per_image),
            "pooled_dice": float(summarise_classes(region, dice).pooled),
        }
        if contour is not None:
            outline: ClassScores = summarise_classes(contour, boundary_f)
            scores["pooled_boundary_f"] = float(outline.pooled)
            scores["per_image_boundary_f"] = float(outline.per_image)
        for name, stream in self.streams.items():
            scores |= _figures(name, stream.compute())
        scores["num_scored_iou"] = int(overlap.num_scored)
        return Scored(folder, region, contour, scores, overlap.per_class)

    def _count(self, labels: Tensor, probs: Tensor | None, target: Tensor) -> None:
        num_classes, ignore_index = self.options.num_classes, self.options.ignore_index
        self.region[self.seen] = region_counts(
            labels, target, num_classes=num_classes, ignore_index=ignore_index
        )[0]
        if self.contour is not None:
            self.contour[self.seen] = boundary_counts(
                labels,
                target,
                num_classes=num_classes,
                tolerance=self.options.tolerance,
                ignore_index=ignore_index,
            )[0]
        for stream in self.streams.values():
            stream.update(probs, target)
        self.seen += 1

    def _read_labels(self, path: Path) -> Tensor:
        """int64 (1, H, W)."""
        options = self.options
        mask = read_mask(
            path,
            num_classes=options.num_classes,
            ignore_index=options.ignore_index,
            encoding=options.pred_encoding,
        )
        return mask[None]

    def _read_probs(self, path: Path) -> Tensor:
        """(1, C, H, W), with C = 1 if binary."""
        probs = read_probabilities(path)
        return fit_channels(path, probs, num_classes=self.options.num_classes)[None]

    def _harden(self, probs: Tensor) -> Tensor:
        if self.options.num_classes == 2:
            return (probs[:, 0] > self.options.threshold).long()
        return probs.argmax(1)


def _figures(name: MetricName, value: object) -> dict[str, float]:
    """Named figures from what a streaming metric computed."""
    if isinstance(value, FScores):
        return {
            "max_f": float(value.maximal),
            "mean_f": float(value.mean),
            "adaptive_f": float(value.adaptive),
        }
    if isinstance(value, BestThreshold):
        return {"best_threshold": float(value.threshold), "best_threshold_iou": float(value.iou)}
    assert isinstance(value, Tensor)
    return {"mae" if name == "mae" else "calibration_error": float(value)}
