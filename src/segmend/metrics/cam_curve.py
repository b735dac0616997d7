"""mIoU of class activation maps over the constant that stands for the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError
from segmend.metrics.checks import check_labels, check_probs
from segmend.metrics.region import iou
from segmend.metrics.scores import class_mean

BACKGROUND_CONSTANTS = tuple(i / 100 for i in range(60))


class CamCurve(NamedTuple):
    """mIoU at each background constant.

    thresholds: (T,). mean_iou: float64 (T,), over the classes present (background included).
    per_class: float64 (T, K). best: index of the highest mean; the lowest constant on ties.
    """

    thresholds: Tensor
    mean_iou: Tensor
    per_class: Tensor
    best: int

    @property
    def best_threshold(self) -> float:
        return float(self.thresholds[self.best])

    @property
    def best_mean_iou(self) -> float:
        return float(self.mean_iou[self.best])


def cam_threshold_counts(
    cams: Tensor,
    target: Tensor,
    *,
    tags: Tensor | None = None,
    thresholds: Sequence[float] = BACKGROUND_CONSTANTS,
    ignore_index: int = 255,
) -> Tensor:
    """Counts as of `region_counts` of the masks that CAMs give at every background constant.

    A pixel's label is the class of its highest map, or 0 where that is not above the constant:
    the argmax over (constant, maps), in which the background wins ties and the first class among
    equals. The argmax is taken once: a pixel's label changes only where the constant passes its
    highest value, so one histogram serves all constants.

    Args:
        cams: foreground maps in [0, 1]; float (N, C, H, W), at the target's size.
        target: labels 0..C, 0 the background, or `ignore_index`; integer (N, H, W).
        tags: {0, 1}, (N, C): maps of classes without a tag are taken as 0, as is usual where
            seeds are scored. None leaves them.
        thresholds: rising; 0 to 0.59 by 0.01 as in the evaluators of AffinityNet and HFPL.
    Returns:
        int64 (N, T, C + 1, 3): [tp, fp, fn].
    Raises:
        SegmendError: shapes differ, a value outside [0, 1] (NaN too), thresholds not rising.
    """
    cuts = _rising(thresholds, cams)
    num_images, num_maps = _check_cams(cams, target, tags)
    if tags is not None:
        cams = cams * tags.to(cams.dtype)[:, :, None, None]
    # cut by cut is not needed: `level` counts the constants below the pixel's highest value
    highest, winner = cams.max(dim=1) if num_maps else _nothing(cams)
    labels = check_labels(winner + 1, target, num_classes=num_maps + 1, ignore_index=ignore_index)
    check_probs("cams", highest, labels.valid)
    level = torch.bucketize(highest, cuts)
    shape = (num_images, num_maps + 1, num_maps + 1, len(cuts) + 1)
    cell = torch.arange(num_images, device=cams.device).view(-1, 1, 1)
    for value, size in zip((labels.target, labels.prediction, level), shape[1:], strict=True):
        cell = cell * size + value
    counts = torch.bincount(cell[labels.valid], minlength=torch.Size(shape).numel()).view(shape)
    return _counts_by_cut(counts)


class CamThresholdCurve(Metric):
    """`CamCurve` of a stream of batches; keeps (T, K, 3) sums.

    `update(cams, target, tags=None)` and the arguments as in `cam_threshold_counts`.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        thresholds: Sequence[float] = BACKGROUND_CONSTANTS,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.thresholds, self.ignore_index = tuple(thresholds), ignore_index
        zeros = torch.zeros(len(self.thresholds), num_classes, 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, cams: Tensor, target: Tensor, tags: Tensor | None = None) -> None:
        """Add a batch: maps (N, num_classes - 1, H, W), labels (N, H, W), tags (N, C)."""
        wanted = self.counts.shape[1] - 1
        if cams.ndim != 4 or cams.shape[1] != wanted:
            raise SegmendError(f"cams: want (N, {wanted}, H, W), got {tuple(cams.shape)}")
        counts = cam_threshold_counts(
            cams, target, tags=tags, thresholds=self.thresholds, ignore_index=self.ignore_index
        )
        self.counts += counts.sum(0)

    def compute(self) -> CamCurve:
        """The curve of all that was seen; NaN where nothing was."""
        return cam_curve(self.counts, thresholds=self.thresholds)


def cam_curve(counts: Tensor, *, thresholds: Sequence[float] = BACKGROUND_CONSTANTS) -> CamCurve:
    """The curve from (T, K, 3) sums of `cam_threshold_counts`."""
    per_class = iou(counts)
    means = torch.stack([class_mean(row).mean for row in per_class])
    best = int(means.nan_to_num(-1.0).argmax())
    return CamCurve(torch.tensor(thresholds, dtype=torch.float64), means, per_class, best)


def _counts_by_cut(histogram: Tensor) -> Tensor:
    """(N, target, winner, level) pixels -> (N, T, K, 3); at cut j the winners of level > j stay."""
    above = histogram.flip(-1).cumsum(-1).flip(-1)[..., 1:].movedim(-1, 1)  # (N, T, K, K)
    members = histogram.sum((2, 3)).unsqueeze(1)  # (N, 1, K)
    tp, positives = above.diagonal(dim1=-2, dim2=-1).clone(), above.sum(2)
    rest = members - above.sum(3)  # by target: pixels that fall to the background
    tp[..., 0], positives[..., 0] = rest[..., 0], rest.sum(-1)
    return torch.stack((tp, positives - tp, members - tp), dim=-1)


def _nothing(cams: Tensor) -> tuple[Tensor, Tensor]:
    blank = cams.new_zeros(len(cams), *cams.shape[2:])
    return blank, blank.long() - 1


def _rising(thresholds: Sequence[float], cams: Tensor) -> Tensor:
    cuts = torch.tensor(thresholds, dtype=cams.dtype, device=cams.device)
    if cuts.ndim != 1 or not len(cuts) or bool((cuts[1:] <= cuts[:-1]).any()):
        raise SegmendError(f"thresholds: want rising numbers, at least one, got {thresholds}")
    return cuts


def _check_cams(cams: Tensor, target: Tensor, tags: Tensor | None) -> tuple[int, int]:
    if cams.ndim != 4 or not cams.is_floating_point():
        raise SegmendError(f"cams: want float (N, C, H, W), got {cams.dtype} {tuple(cams.shape)}")
    if target.shape != (len(cams), *cams.shape[2:]):
        raise SegmendError(
            f"cams: {tuple(cams.shape)} does not fit the target {tuple(target.shape)}; resize the "
            "maps to the target first"
        )
    if tags is not None and tags.shape != cams.shape[:2]:
        raise SegmendError(f"tags: want {tuple(cams.shape[:2])}, got {tuple(tags.shape)}")
    return len(cams), cams.shape[1]
