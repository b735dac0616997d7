"""Do probabilities mean what they say, and which one threshold suits a whole set?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError
from segmend.metrics.checks import check_probs, score_histogram, single_channel, split_binary


class CalibrationError(Metric):
    """Expected calibration error over equal bins of the score, pixel by pixel, streaming.

    The score is the foreground's probability for a binary map (compared with how often the pixel
    is foreground), or the largest class probability for many classes (compared with how often
    that class is right). The result is the sum over bins of (share of pixels in the bin) *
    |mean score - frequency|. Only 3 sums a bin are kept.

    Args:
        num_bins: equal bins [a, b) of [0, 1], the last one closed; 15 since Guo et al.
        ignore_index: pixels of this target label count nowhere.
    `update(probs, target)`: float in [0, 1] (N, C, H, W) with C = 1 for binary, or (N, H, W), and
    labels (N, H, W). `compute`: scalar float64; NaN if no pixel was valid.
    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """

    full_state_update = False
    higher_is_better = False
    sums: Tensor

    def __init__(self, *, num_bins: int = 15, ignore_index: int = 255) -> None:
        super().__init__()
        if num_bins < 1:
            raise SegmendError(f"num_bins: want at least 1, got {num_bins}")
        self.num_bins, self.ignore_index = num_bins, ignore_index
        self.add_state("sums", torch.zeros(3, num_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add a batch; raises SegmendError for shapes, labels or probabilities out of range."""
        score, hit, valid = _score_and_hit(single_channel(probs), target, self.ignore_index)
        score, hit = score[valid].double(), hit[valid].double()
        index = (score * self.num_bins).long().clamp(max=self.num_bins - 1)
        for row, weights in zip(self.sums, (torch.ones_like(score), score, hit), strict=True):
            row += torch.bincount(index, weights, minlength=self.num_bins)

    def compute(self) -> Tensor:
        """Expected calibration error of all that was seen, in [0, 1]."""
        pixels, scores, hits = self.sums
        error: Tensor = (scores - hits).abs().sum() / pixels.sum()
        return error


class BestThreshold(NamedTuple):
    """threshold: use as `probs > threshold`. iou: the pooled foreground IoU that it gives."""

    threshold: Tensor
    iou: Tensor


class ThresholdCurve(Metric):
    """The one threshold with the highest pooled IoU over a whole set, streaming.

    Args:
        levels: scores are quantised as `round(p * (levels - 1))`; the default 65536 is exact for
            8- and 16-bit maps.
        ignore_index: pixels of this target label count nowhere.
    `update(probs, target)`: float in [0, 1] (N, H, W) or (N, 1, H, W), and {0, 1, ignore_index}
    (N, H, W). `compute` gives `BestThreshold`; `curve()` the IoU at every threshold.
    """

    full_state_update = False
    higher_is_better = True
    histogram: Tensor

    def __init__(self, *, levels: int = 65536, ignore_index: int = 255) -> None:
        super().__init__()
        if levels < 2:
            raise SegmendError(f"levels: want at least 2, got {levels}")
        self.levels, self.ignore_index = levels, ignore_index
        self.add_state("histogram", torch.zeros(2, levels, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add a batch; raises SegmendError as `split_binary`."""
        probs = single_channel(probs)
        foreground, valid = split_binary(probs, target, ignore_index=self.ignore_index)
        # one histogram for the batch: rows of single images would cost levels * N
        whole = [x.reshape(1, 1, -1) for x in (probs, foreground, valid)]
        self.histogram += score_histogram(*whole, levels=self.levels)[0]

    def compute(self) -> BestThreshold:
        """Best threshold of all that was seen."""
        return best_global_threshold(self.histogram)

    def curve(self) -> tuple[Tensor, Tensor]:
        """(thresholds, pooled IoU), both (levels - 1,)."""
        return _thresholds(self.histogram), pooled_iou_curve(self.histogram)


def pooled_iou_curve(histogram: Tensor) -> Tensor:
    """IoU of `level > k` for k = 0 .. levels - 2.

    Args:
        histogram: integer (2, levels), pixels of background and foreground at each score level.
    Returns:
        (levels - 1,) float64; NaN where nothing is foreground and nothing is predicted.
    """
    above = histogram.flip(-1).cumsum(-1).flip(-1)[:, 1:].double()
    union = above[0] + histogram[1].sum()
    return torch.where(union > 0, above[1] / union, torch.nan)


def best_global_threshold(histogram: Tensor) -> BestThreshold:
    """Threshold with the highest pooled IoU; of several, the one nearest to 0.5.

    Args:
        histogram: integer (2, levels), pixels of background and foreground at each score level.
    Returns:
        The threshold lies halfway between two levels, strictly inside (0, 1): calling every pixel
        or none of them foreground is no threshold. 0.5 and NaN where no IoU exists.
    """
    thresholds, curve = _thresholds(histogram), pooled_iou_curve(histogram)
    top = curve.nan_to_num(nan=-1.0).max()
    if top < 0:
        nan = curve.new_tensor(torch.nan)
        return BestThreshold(curve.new_tensor(0.5), nan)
    candidates = thresholds[curve == top]
    return BestThreshold(candidates[(candidates - 0.5).abs().argmin()], top)


def _thresholds(histogram: Tensor) -> Tensor:
    levels = histogram.shape[-1]
    halfway = torch.arange(levels - 1, dtype=torch.float64, device=histogram.device) + 0.5
    return halfway / (levels - 1)


def _score_and_hit(
    probs: Tensor, target: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, whether it came true, and validity, (N, H, W) each."""
    if probs.ndim == 3:
        foreground, valid = split_binary(probs, target, ignore_index=ignore_index)
        return probs, foreground, valid
    if (
        probs.ndim != 4
        or probs.shape[::2] != target.shape[::2]
        or probs.shape[3:] != target.shape[2:]
    ):
        raise SegmendError(
            f"probs: want (N, C, H, W) for target {tuple(target.shape)}, got {tuple(probs.shape)}"
        )
    valid = target != ignore_index
    check_probs("probs", probs, valid[:, None].expand_as(probs))
    wrong = valid & ((target < 0) | (target >= probs.shape[1]))
    if bool(wrong.any()):
        raise SegmendError(
            f"target: label {int(target[wrong][0])} is outside 0..{probs.shape[1] - 1}, "
            f"the classes of probs {tuple(probs.shape)}"
        )
    score, guess = probs.max(1)
    return score, guess == target, valid
