"""Region overlap: IoU and Dice from counts of pixels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from segmend.metrics.checks import check_labels
from segmend.metrics.scores import CountedScore


def region_counts(
    prediction: Tensor, target: Tensor, *, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """True positives, false positives and false negatives of each class in each image.

    Args:
        prediction: labels in [0, num_classes); integer or bool (N, H, W).
        target: labels in [0, num_classes) or `ignore_index`; integer or bool (N, H, W).
        num_classes: background included; in a binary problem class 1 is the foreground.
        ignore_index: pixels of this target label count nowhere.
    Returns:
        int64 (N, num_classes, 3): [tp, fp, fn]. Counts add up over images and over machines.
    Raises:
        SegmendError: shapes differ, a dtype is floating, or a valid pixel's label is out of range.
    """
    labels = check_labels(prediction, target, num_classes=num_classes, ignore_index=ignore_index)
    rest = num_classes  # one more bin, dropped at the end, takes what must not count
    predicted = labels.prediction.masked_fill(~labels.valid, rest)
    wanted = labels.target.masked_fill(~labels.valid, rest)
    hit = wanted.masked_fill(predicted != wanted, rest)
    tp, positives, members = (_count(x, num_classes) for x in (hit, predicted, wanted))
    return torch.stack((tp, positives - tp, members - tp), dim=-1)


def iou(counts: Tensor) -> Tensor:
    """Intersection over union from [tp, fp, fn].

    Args:
        counts: (..., 3); sums of counts are counts, so add up first and divide late.
    Returns:
        (...), float64 in [0, 1]; NaN where the union is empty (class neither there nor predicted):
        average with `nanmean`.
    """
    tp, union = counts[..., 0].double(), counts.sum(-1).double()
    return torch.where(union > 0, tp / union, torch.nan)


def dice(counts: Tensor) -> Tensor:
    """Dice coefficient (the F1 of the pixels) from [tp, fp, fn]; shapes and NaN as in `iou`."""
    tp, union = counts[..., 0].double(), counts.sum(-1).double()
    return torch.where(union > 0, 2 * tp / (tp + union), torch.nan)


class RegionIoU(CountedScore):
    """IoU of a stream of batches, pooled and per image; see `ClassScores` for the two readings.

    `update(prediction, target)` and the arguments as in `region_counts`; `compute` gives
    `ClassScores`. In a binary problem both IoUs are the foreground's; with more classes the
    per-image score is the mean over the classes present in that image's prediction or target.
    """

    def __init__(self, *, num_classes: int = 2, ignore_index: int = 255) -> None:
        count = partial(region_counts, num_classes=num_classes, ignore_index=ignore_index)
        super().__init__(count, iou, shape=(num_classes, 3))


def _count(labels: Tensor, num_classes: int) -> Tensor:
    """How often each class occurs in each image, (N, C); label `num_classes` is dropped."""
    num_images, bins = len(labels), num_classes + 1
    offset = bins * torch.arange(num_images, device=labels.device).view(-1, 1, 1)
    counts = torch.bincount((labels + offset).flatten(), minlength=num_images * bins)
    return counts.view(num_images, bins)[:, :num_classes]
