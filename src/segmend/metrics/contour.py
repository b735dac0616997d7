"""Boundary F: does the outline run where it should, within a tolerance?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError
from segmend.metrics.checks import Labels, check_labels
from segmend.metrics.scores import ClassScores, class_score


def boundary_counts(
    prediction: Tensor,
    target: Tensor,
    *,
    num_classes: int = 2,
    tolerance: float = 0.008,
    ignore_index: int = 255,
) -> Tensor:
    """Boundary pixels of each class in each image, and how many of them find a partner.

    A pixel is on the boundary of a class if its right, lower or lower-right neighbour is on the
    other side (in or out of the class); the edge of the image is no boundary. A boundary pixel is
    matched if the other mask's boundary has a pixel within ceil(tolerance * diagonal) pixels
    (Euclidean, the disk of DAVIS). Two pixels of which one is ignored are not compared, so an
    ignored region makes no boundary. (Where a data set ignores every outline, as VOC does, little
    is left to measure.) In a binary problem both classes share their boundary.

    Args:
        prediction: labels in [0, num_classes); integer or bool (N, H, W).
        target: labels in [0, num_classes) or `ignore_index`; integer or bool (N, H, W).
        num_classes: background included.
        tolerance: fraction of the image diagonal; 0.008 is the default of DAVIS.
        ignore_index: pixels of this target label count nowhere.
    Returns:
        int64 (N, num_classes, 4): [matched predicted, predicted, matched target, target].
    Raises:
        SegmendError: as `region_counts`; or a tolerance below 0.
    Source:
        Perazzi et al., CVPR 2016 (DAVIS), section 4, and the boundary map of its toolkit, which
        this equals where nothing is ignored.
    """
    if not 0 <= tolerance < math.inf:
        raise SegmendError(f"tolerance: want a fraction of the diagonal >= 0, got {tolerance}")
    labels = check_labels(prediction, target, num_classes=num_classes, ignore_index=ignore_index)
    radius = math.ceil(tolerance * math.hypot(*target.shape[-2:]))
    counts = torch.zeros(len(target), num_classes, 4, dtype=torch.int64, device=target.device)
    for row, image in zip(counts, zip(*labels, strict=True), strict=True):
        _count_image(row, Labels(*image), radius)
    return counts


def boundary_f(counts: Tensor) -> Tensor:
    """Harmonic mean of boundary precision and recall from `boundary_counts` (or sums of them).

    Args:
        counts: (..., 4), [matched predicted, predicted, matched target, target].
    Returns:
        (...), float64 in [0, 1]: NaN where neither mask has a boundary (DAVIS says 1 there; we
        leave such images out), 0 where only one has.
    """
    matched_pred, pred, matched_target, target = counts.double().unbind(-1)
    # 2 P R / (P + R) with P = matched_pred / pred and R = matched_target / target, cleared
    below = matched_pred * target + matched_target * pred
    score = 2 * matched_pred * matched_target / below.where(below > 0, 1.0)
    return torch.where(pred + target > 0, score, torch.nan)


class BoundaryF(Metric):
    """Boundary F of a stream of batches, pooled and per image; see `ClassScores`.

    `update(prediction, target)` and the arguments as in `boundary_counts`; `compute` gives
    `ClassScores`. The per-image mean is the convention of DAVIS.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor
    image_sum: Tensor
    num_scored: Tensor
    num_images: Tensor

    def __init__(
        self, *, num_classes: int = 2, tolerance: float = 0.008, ignore_index: int = 255
    ) -> None:
        super().__init__()
        self.num_classes, self.tolerance = num_classes, tolerance
        self.ignore_index = ignore_index
        zero = torch.zeros((), dtype=torch.int64)
        self.add_state("counts", zero.new_zeros(num_classes, 4), dist_reduce_fx="sum")
        self.add_state("image_sum", zero.double(), dist_reduce_fx="sum")
        self.add_state("num_scored", zero, dist_reduce_fx="sum")
        self.add_state("num_images", zero.clone(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: labels (N, H, W) both."""
        counts = boundary_counts(
            prediction,
            target,
            num_classes=self.num_classes,
            tolerance=self.tolerance,
            ignore_index=self.ignore_index,
        )
        images = class_score(boundary_f(counts))
        self.counts += counts.sum(0)
        self.image_sum += images.nansum()
        self.num_scored += (~images.isnan()).sum()
        self.num_images += len(images)

    def compute(self) -> ClassScores:
        """Scores of all that was seen; NaN where nothing could be scored."""
        per_class = boundary_f(self.counts)
        return ClassScores(
            pooled=class_score(per_class),
            per_image=self.image_sum / self.num_scored,
            per_class=per_class,
            num_images=self.num_images,
            num_scored=self.num_scored,
        )


def boundary(region: Tensor, valid: Tensor) -> Tensor:
    """Boundary pixels of a bool region (H, W): bool (H, W), rule as in `boundary_counts`."""
    edge = torch.zeros_like(region)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        height, width = region.shape[0] - down, region.shape[1] - right
        here, there = (slice(height), slice(width)), (slice(down, None), slice(right, None))
        edge[here] |= (region[here] ^ region[there]) & valid[here] & valid[there]
    return edge


def dilate(mask: Tensor, radius: int) -> Tensor:
    """All pixels within `radius` (Euclidean) of a pixel of `mask`; bool (H, W).

    The disk is a union of vertical runs, one a column offset, which shrink towards its sides; so
    the run grows in place while the offset falls, at 4 * radius steps of one byte a pixel. This
    equals `distance transform <= radius` and is several times faster at these radii.
    """
    column, grown, reach = mask.clone(), torch.zeros_like(mask), 0
    for offset in range(radius, -1, -1):
        while (reach + 1) ** 2 + offset**2 <= radius**2:
            reach += 1
            column[reach:] |= mask[:-reach]
            column[:-reach] |= mask[reach:]
        inner = max(mask.shape[1] - offset, 0)
        grown[:, offset:] |= column[:, :inner]
        grown[:, :inner] |= column[:, offset:]
    return grown


def _count_image(row: Tensor, labels: Labels, radius: int) -> None:
    """Fill `row` (C, 4) for one image, labels (H, W)."""
    num_classes = len(row)
    if num_classes == 2:
        row[:] = _count_class(labels.prediction == 1, labels.target == 1, labels.valid, radius)
        return
    seen = torch.bincount(torch.stack(labels[:2]).flatten(), minlength=num_classes)
    for index in seen.nonzero().flatten().tolist():
        row[index] = _count_class(
            labels.prediction == index, labels.target == index, labels.valid, radius
        )


def _count_class(predicted: Tensor, wanted: Tensor, valid: Tensor, radius: int) -> Tensor:
    """The four counts of one class in one image."""
    pair = torch.stack((boundary(predicted, valid), boundary(wanted, valid)))
    rows, columns = (pair.any(0).any(axis).nonzero() for axis in (1, 0))
    if rows.numel() == 0:
        return torch.zeros(4, dtype=torch.int64, device=predicted.device)
    # all boundary pixels lie in this box, so nothing outside it can match or be matched
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    ours, theirs = pair[:, top:bottom, left:right]
    matched_ours, matched_theirs = ours & dilate(theirs, radius), theirs & dilate(ours, radius)
    return torch.stack([x.sum() for x in (matched_ours, ours, matched_theirs, theirs)])
