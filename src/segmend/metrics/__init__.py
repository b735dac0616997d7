"""How good a segmentation is: counts that add up, streaming metrics and paired intervals."""

from __future__ import annotations

from segmend.metrics.calibration import (
    BestThreshold,
    CalibrationError,
    ThresholdCurve,
    best_global_threshold,
    pooled_iou_curve,
)
from segmend.metrics.contour import BoundaryF, boundary_counts, boundary_f
from segmend.metrics.paired import (
    Interval,
    boundary_f_difference,
    mean_iou_difference,
    paired_bootstrap,
    pooled_iou_difference,
)
from segmend.metrics.region import RegionIoU, dice, iou, region_counts
from segmend.metrics.saliency import FScores, MaxFMeasure, MeanAbsoluteError
from segmend.metrics.scores import ClassScores, class_score, summarise_classes

__all__ = [
    "BestThreshold",
    "BoundaryF",
    "CalibrationError",
    "ClassScores",
    "FScores",
    "Interval",
    "MaxFMeasure",
    "MeanAbsoluteError",
    "RegionIoU",
    "ThresholdCurve",
    "best_global_threshold",
    "boundary_counts",
    "boundary_f",
    "boundary_f_difference",
    "class_score",
    "dice",
    "iou",
    "mean_iou_difference",
    "paired_bootstrap",
    "pooled_iou_curve",
    "pooled_iou_difference",
    "region_counts",
    "summarise_classes",
]
