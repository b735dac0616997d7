"""How good a segmentation is: counts that add up, streaming metrics and paired intervals."""

from __future__ import annotations

from segmend.metrics.calibration import (
    BestThreshold,
    CalibrationError,
    ThresholdCurve,
    best_global_threshold,
    pooled_iou_curve,
)
from segmend.metrics.cam_curve import (
    BACKGROUND_CONSTANTS,
    CamCurve,
    CamThresholdCurve,
    cam_curve,
    cam_threshold_counts,
)
from segmend.metrics.candidates import (
    OutOfCandidateRate,
    OutOfCandidateRates,
    out_of_candidate_counts,
    out_of_candidate_rates,
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
from segmend.metrics.scores import (
    ClassMean,
    ClassScores,
    class_mean,
    class_score,
    summarise_classes,
)
from segmend.metrics.tagging import TagAveragePrecision, TagPrecision, tag_average_precision

__all__ = [
    "BACKGROUND_CONSTANTS",
    "BestThreshold",
    "BoundaryF",
    "CalibrationError",
    "CamCurve",
    "CamThresholdCurve",
    "ClassMean",
    "ClassScores",
    "FScores",
    "Interval",
    "MaxFMeasure",
    "MeanAbsoluteError",
    "OutOfCandidateRate",
    "OutOfCandidateRates",
    "RegionIoU",
    "TagAveragePrecision",
    "TagPrecision",
    "ThresholdCurve",
    "best_global_threshold",
    "boundary_counts",
    "boundary_f",
    "boundary_f_difference",
    "cam_curve",
    "cam_threshold_counts",
    "class_mean",
    "class_score",
    "dice",
    "iou",
    "mean_iou_difference",
    "out_of_candidate_counts",
    "out_of_candidate_rates",
    "paired_bootstrap",
    "pooled_iou_curve",
    "pooled_iou_difference",
    "region_counts",
    "summarise_classes",
    "tag_average_precision",
]
