"""Boundary F: does the outline run where it should, within a tolerance?"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.metrics.checks import Labels, check_labels
from segmend.metrics.scores import CountedScore

Void = Literal["ignore", "background"]
_PLANES = 8  # classes that share a byte


def boundary_counts(
    prediction: Tensor,
    target: Tensor,
    *,
    num_classes: int = 2,
    tolerance: float = 0.008,
    ignore_index: int = 255,
    void: Void = "ignore",
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
        ignore_index: pixels of this target label are void.
        void: "ignore" as said above; "background" makes them label 0 of the target, as the
            published code of HFPL does (and DAVIS, which has none): the outline of a void ring
            is then a contour, and what is predicted inside the ring counts.
    Returns:
        int64 (N, num_classes, 4): [matched predicted, predicted, matched target, target].
    Raises:
        SegmendError: as `region_counts`; a tolerance below 0; an unknown `void`.
    Source:
        Perazzi et al., CVPR 2016 (DAVIS), section 4, and the boundary map of its toolkit, which
        this equals where nothing is ignored. Counts added over a set, then
        `class_mean(boundary_f(counts), background=0)`, is the protocol of HFPL (hfpl at 1038a68);
        images without a class count with the false contours in them.
    """
    if not 0 <= tolerance < math.inf:
        raise SegmendError(f"tolerance: want a fraction of the diagonal >= 0, got {tolerance}")
    if void not in ("ignore", "background"):
        raise SegmendError(f"void: want 'ignore' or 'background', got {void!r}")
    if void == "background" and not target.is_floating_point():
        target = target.long()
        target = target.masked_fill(target == ignore_index, 0)
        ignore_index = torch.iinfo(torch.int64).min  # no pixel is ignored any more
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


class BoundaryF(CountedScore):
    """Boundary F of a stream of batches, pooled and per image; see `ClassScores`.

    `update(prediction, target)` and the arguments as in `boundary_counts`; `compute` gives
    `ClassScores`. The per-image mean is the convention of DAVIS; `class_mean(scores.per_class,
    background=0)` is that of HFPL.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        tolerance: float = 0.008,
        ignore_index: int = 255,
        void: Void = "ignore",
    ) -> None:
        count = partial(
            boundary_counts,
            num_classes=num_classes,
            tolerance=tolerance,
            ignore_index=ignore_index,
            void=void,
        )
        super().__init__(count, boundary_f, shape=(num_classes, 4))


def boundary(planes: Tensor, valid: Tensor | None = None) -> Tensor:
    """Boundary pixels of regions, rule as in `boundary_counts`; shape and type of `planes`.

    Args:
        planes: (..., H, W); bool, or uint8 in which each bit is a region of its own.
        valid: bool (H, W); None: all.
    """
    edge = torch.zeros_like(planes)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        height, width = planes.shape[-2] - down, planes.shape[-1] - right
        here = (..., slice(height), slice(width))
        there = (..., slice(down, None), slice(right, None))
        differs = planes[here] ^ planes[there]
        if valid is not None:
            differs.masked_fill_(~(valid[here] & valid[there]), 0)
        edge[here] |= differs
    return edge


def dilate(planes: Tensor, radius: int) -> Tensor:
    """Bits set within `radius` (Euclidean) of a pixel; shape and type of `planes`.

    The disk is a union of vertical runs, one a column offset, which shrink towards its sides; so
    the run grows in place while the offset falls, at 4 * radius steps of one byte a pixel. This
    equals `distance transform <= radius` and is several times faster at these radii.

    Args:
        planes: (..., H, W), bool or uint8, as in `boundary`.
    """
    column, grown, reach = planes.clone(), torch.zeros_like(planes), 0
    for offset in range(radius, -1, -1):
        while (reach + 1) ** 2 + offset**2 <= radius**2:
            reach += 1
            column[..., reach:, :] |= planes[..., :-reach, :]
            column[..., :-reach, :] |= planes[..., reach:, :]
        inner = max(planes.shape[-1] - offset, 0)
        grown[..., offset:] |= column[..., :inner]
        if offset:
            grown[..., :inner] |= column[..., offset:]
    return grown


def _count_image(row: Tensor, labels: Labels, radius: int) -> None:
    """Fill `row` (C, 4) for one image, labels (H, W)."""
    pair = torch.stack(labels[:2])
    valid = None if bool(labels.valid.all()) else labels.valid
    if len(row) == 2:
        row[:] = _count_planes((pair == 1).view(torch.uint8), valid, radius)[0]
        return
    seen = torch.bincount(pair.flatten(), minlength=len(row)).nonzero().flatten()
    for group in seen.split(_PLANES):
        # one bit a class: the boundaries of eight classes cost as much as those of one
        bits = torch.zeros(len(row), dtype=torch.uint8, device=row.device)
        bits[group] = 1 << torch.arange(len(group), device=row.device).to(torch.uint8)
        planes = bits.index_select(0, pair.flatten()).view(pair.shape)
        row[group] = _count_planes(planes, valid, radius)[: len(group)]


def _count_planes(planes: Tensor, valid: Tensor | None, radius: int) -> Tensor:
    """The four counts of each bit, int64 (8, 4); planes uint8 (2, H, W), prediction first."""
    edges = boundary(planes, valid)
    either = edges[0] | edges[1]
    rows, columns = (either.amax(axis).nonzero() for axis in (1, 0))
    if rows.numel() == 0:
        return torch.zeros(_PLANES, 4, dtype=torch.int64, device=planes.device)
    # all boundary pixels lie in this box, so nothing outside it can match or be matched
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    edges = edges[:, top:bottom, left:right].contiguous()
    near = dilate(edges, radius)
    columns_of_counts = []
    for ours, theirs in ((0, 1), (1, 0)):
        at = edges[ours].flatten().nonzero().flatten()
        edge, found = edges[ours].flatten()[at], near[theirs].flatten()[at]
        columns_of_counts += [_count_bits(edge & found), _count_bits(edge)]
    return torch.stack(columns_of_counts, dim=1)


def _count_bits(bytes_: Tensor) -> Tensor:
    """How often each bit is set in uint8 (n,): int64 (8,)."""
    value = torch.arange(256, device=bytes_.device)
    is_set = (value[:, None] >> torch.arange(_PLANES, device=bytes_.device)) & 1
    return (torch.bincount(bytes_, minlength=256)[:, None] * is_set).sum(0)
