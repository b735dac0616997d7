"""Grey-level maps: mean absolute error and the F-measure of salient object detection."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.metrics.checks import score_histogram, single_channel, split_binary

LEVELS = 256
"""Thresholds of the F-measure: the grey levels of an 8-bit map, as in the field's tool boxes."""


class FScores(NamedTuple):
    """F-measures of a set of grey-level maps.

    maximal: largest F over the 256 thresholds. threshold: where, in [0, 1]; use `probs` whose
        8-bit level is at least it. mean: mean of F over the thresholds. adaptive: mean over the
        images of F at twice the image's mean score. num_images: seen. num_scored: images with
        foreground; recall does not exist in the others, which count nowhere.
    """

    maximal: Tensor
    threshold: Tensor
    mean: Tensor
    adaptive: Tensor
    num_images: Tensor
    num_scored: Tensor


class MeanAbsoluteError(Metric):
    """Mean of |probability - target| over an image's valid pixels, averaged over images.

    `update(probs, target)`: float in [0, 1] (N, H, W) or (N, 1, H, W), and {0, 1, ignore_index}
    (N, H, W). Images without a valid pixel are left out; NaN if none is left.
    """

    full_state_update = False
    higher_is_better = False
    image_sum: Tensor
    num_scored: Tensor

    def __init__(self, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.add_state("image_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_scored", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add a batch; raises SegmendError as `split_binary`."""
        errors = mean_absolute_error(probs, target, ignore_index=self.ignore_index)
        self.image_sum += errors.nansum()
        self.num_scored += (~errors.isnan()).sum()

    def compute(self) -> Tensor:
        """Mean over the images that have a valid pixel."""
        return self.image_sum / self.num_scored


class MaxFMeasure(Metric):
    """F-measure over all 256 thresholds of 8-bit maps, streaming.

    Precision and recall are averaged over the images at each threshold, then combined (the
    protocol of the benchmarks since Achanta 2009); an image in which nothing reaches a threshold
    has precision 0 there. Scores are quantised as `round(255 p)`, without stretching each map to
    [0, 1] first, so a timid map is judged as it is.

    Args:
        beta_squared: weight of recall; 0.3 since Achanta et al., CVPR 2009.
        ignore_index: pixels of this target label count nowhere.
    `update(probs, target)` as in `MeanAbsoluteError`; `compute` gives `FScores`.
    """

    full_state_update = False
    higher_is_better = True
    precision_sum: Tensor
    recall_sum: Tensor
    adaptive_sum: Tensor
    num_scored: Tensor
    num_images: Tensor

    def __init__(self, *, beta_squared: float = 0.3, ignore_index: int = 255) -> None:
        super().__init__()
        self.beta_squared, self.ignore_index = beta_squared, ignore_index
        zeros = torch.zeros(LEVELS, dtype=torch.float64)
        self.add_state("precision_sum", zeros, dist_reduce_fx="sum")
        self.add_state("recall_sum", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("adaptive_sum", zeros[0].clone(), dist_reduce_fx="sum")
        self.add_state("num_scored", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add a batch; raises SegmendError as `split_binary`."""
        probs = single_channel(probs)
        foreground, valid = split_binary(probs, target, ignore_index=self.ignore_index)
        scored = foreground.flatten(1).any(1)
        self.num_images += len(probs)
        self.num_scored += scored.sum()
        histogram = score_histogram(probs, foreground, valid, levels=LEVELS)[scored]
        precision, recall = precision_recall(histogram)
        self.precision_sum += precision.sum(0)
        self.recall_sum += recall.sum(0)
        level = adaptive_level(histogram)
        at_level = [x.gather(1, level[:, None])[:, 0] for x in (precision, recall)]
        self.adaptive_sum += f_measure(*at_level, beta_squared=self.beta_squared).sum()

    def compute(self) -> FScores:
        """Scores of all that was seen; NaN if no image had foreground."""
        curve = f_measure(
            self.precision_sum / self.num_scored,
            self.recall_sum / self.num_scored,
            beta_squared=self.beta_squared,
        )
        best = curve.argmax()
        return FScores(
            maximal=curve[best],
            threshold=best.double() / (LEVELS - 1),
            mean=curve.mean(),
            adaptive=self.adaptive_sum / self.num_scored,
            num_images=self.num_images,
            num_scored=self.num_scored,
        )


def mean_absolute_error(probs: Tensor, target: Tensor, *, ignore_index: int = 255) -> Tensor:
    """(N,) float64: each image's mean |probability - target|; NaN without a valid pixel."""
    probs = single_channel(probs)
    foreground, valid = split_binary(probs, target, ignore_index=ignore_index)
    gaps = (probs.double() - foreground.double()).abs().masked_fill(~valid, 0.0)
    return gaps.flatten(1).sum(1) / valid.flatten(1).sum(1)


def precision_recall(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of `level >= t` at every t, (N, levels) each, from (N, 2, levels).

    Precision is 0 where nothing reaches t, recall 0 where there is no foreground.
    """
    reached = histogram.flip(-1).cumsum(-1).flip(-1).double()
    tp, positives = reached[:, 1], reached.sum(1)
    return tp / positives.clamp(min=1), tp / tp[:, :1].clamp(min=1)


def f_measure(precision: Tensor, recall: Tensor, *, beta_squared: float = 0.3) -> Tensor:
    """(1 + b) P R / (b P + R) with b = beta_squared; 0 where both are 0, NaN stays NaN."""
    below = beta_squared * precision + recall
    return (1 + beta_squared) * precision * recall / below.where(below != 0, 1.0)


def adaptive_level(histogram: Tensor) -> Tensor:
    """(N,) int64: lowest level not below twice the mean level, at most the highest level.

    Source: Achanta et al., CVPR 2009, eq. 9; as all here, from the 8-bit levels.
    """
    per_level = histogram.sum(1)
    levels = torch.arange(per_level.shape[-1], device=histogram.device)
    twice = 2 * (per_level * levels).sum(-1).double() / per_level.sum(-1).clamp(min=1)
    return twice.ceil().long().clamp(max=per_level.shape[-1] - 1)
