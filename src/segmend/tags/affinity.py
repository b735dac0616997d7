"""Pairs of neighbouring pixels: how alike they are, what their labels say, and the loss between.

A set of pairs is a tensor (N, D, H, W): entry (n, d, y, x) belongs to the pixel at (y, x), the
pair's source, and the pixel at (y, x) + offset d, its target. Where no such pair exists (the
target lies outside) an affinity is 0 and a label is False.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmend.errors import SegmendError

Offset = tuple[int, int]
Borders = Literal["all", "published"]

RADIUS = 5
"""Published for AffinityNet at stride 8: 34 offsets."""
_EPSILON = 1e-5


def half_plane_offsets(radius: int, *, size: tuple[int, int] | None = None) -> list[Offset]:
    """Offsets (dy, dx) that meet every pair of pixels closer than `radius` once.

    Args:
        radius: in pixels, at least 1; the distance must be smaller, so 5 gives 34 offsets.
        size: (height, width) of a map. With it the radius shrinks as the published networks
            shrink it for maps below 2 * radius + 1 pixels: to (shorter side - 1) // 2, at least 1.
            Needed for `borders="published"` only, which has no pairs on such maps otherwise.
    Returns:
        (0, 1..radius - 1), then rows 1..radius - 1 from left to right; none for radius 1.
    Raises:
        SegmendError: the radius is below 1.
    """
    if radius < 1:
        raise SegmendError(f"radius: want a whole number of pixels >= 1, got {radius}")
    if size is not None and min(size) < 2 * radius + 1:
        radius = max(1, (min(size) - 1) // 2)
    across = [(0, dx) for dx in range(1, radius)]
    below = [(dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius)]
    return across + [(dy, dx) for dy, dx in below if dy**2 + dx**2 < radius**2]


def overlap(offset: Offset, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the sources whose target at `offset` lies inside the map."""
    dy, dx = offset
    rows = slice(min(height, max(0, -dy)), max(0, min(height, height - dy)))
    return rows, slice(min(width, max(0, -dx)), max(0, min(width, width - dx)))


def shifted(rows: slice, cols: slice, offset: Offset) -> tuple[slice, slice]:
    """The targets of the sources in `rows` and `cols`."""
    dy, dx = offset
    return slice(rows.start + dy, rows.stop + dy), slice(cols.start + dx, cols.stop + dx)


def existing_pairs(
    height: int,
    width: int,
    offsets: Sequence[Offset],
    *,
    borders: Borders = "all",
    device: torch.device | None = None,
) -> Tensor:
    """Which pairs exist on a map: bool (D, height, width).

    Args:
        height, width: of the map, in pixels.
        offsets: `half_plane_offsets`.
        borders: "all" (default): every pair inside the map. "published": AffinityNet's, whose
            sources have all targets inside, so that no source lies within radius - 1 columns of
            the left and right border or rows of the lower one, and pairs there are missing.
        device: of the result.
    """
    if borders not in get_args(Borders):
        raise SegmendError(f"borders: want one of {', '.join(get_args(Borders))}, got {borders!r}")
    exists = torch.zeros(len(offsets), height, width, dtype=torch.bool, device=device)
    for d, offset in enumerate(offsets):
        exists[(d, *overlap(offset, height, width))] = True
    if borders == "published" and len(offsets):
        exists &= exists.all(0)
    return exists


def pairwise_affinity(
    features: Tensor, offsets: Sequence[Offset], *, borders: Borders = "all"
) -> Tensor:
    """How alike neighbouring features are: exp(-mean over channels of |F_i - F_j|).

    Args:
        features: float (N, C, H, W).
        offsets: `half_plane_offsets`.
        borders: `existing_pairs`.
    Returns:
        (N, D, H, W) in (0, 1], at least float32; 0 where no pair exists.
    Raises:
        SegmendError: `features` is not float (N, C, H, W).
    Reference:
        Ahn and Kwak, CVPR 2018 (AffinityNet) with the mean of its published code.
    """
    if features.ndim != 4 or not features.is_floating_point():
        raise SegmendError(
            f"features: want float (N, C, H, W), got {features.dtype} {tuple(features.shape)}"
        )
    height, width = features.shape[2:]
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if not offsets:
        return features.new_zeros(len(features), 0, height, width)
    distances: Tensor = _Distances.apply(features, tuple(offsets))
    affinity = torch.exp(-distances)
    if borders == "all":
        return affinity
    exists = existing_pairs(height, width, offsets, borders=borders, device=features.device)
    return affinity.masked_fill(~exists, 0)


class _Distances(torch.autograd.Function):
    """Mean over channels of |F_i - F_j|, (N, D, H, W); infinite where no pair exists.

    Autograd would keep every difference and fill a whole gradient map for each; here differences
    are formed again, and all offsets add to one map.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, offsets: tuple[Offset, ...]) -> Tensor:
        ctx.save_for_backward(features)
        ctx.offsets = offsets
        count, _, height, width = features.shape
        distances = features.new_full((count, len(offsets), height, width), torch.inf)
        for d, offset in enumerate(offsets):
            rows, cols = overlap(offset, height, width)
            distances[:, d, rows, cols] = _step(features, offset).abs_().mean(1)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        found = torch.zeros_like(features)
        for d, offset in enumerate(ctx.offsets):
            rows, cols = overlap(offset, features.shape[2], features.shape[3])
            target_rows, target_cols = shifted(rows, cols, offset)
            slope = _step(features, offset).sign_()
            slope *= gradient[:, d, None, rows, cols] / features.shape[1]
            found[:, :, rows, cols] += slope
            found[:, :, target_rows, target_cols] -= slope
        return found, None


def _step(features: Tensor, offset: Offset) -> Tensor:
    """Sources minus targets."""
    rows, cols = overlap(offset, features.shape[2], features.shape[3])
    target_rows, target_cols = shifted(rows, cols, offset)
    return features[:, :, rows, cols] - features[:, :, target_rows, target_cols]


def affinity_labels(
    low_alpha: Tensor,
    high_alpha: Tensor,
    valid: Tensor | None = None,
    *,
    ignore_index: int = 255,
) -> Tensor:
    """Labels of the pixels that two label maps with different backgrounds agree on enough.

    The background score is (1 - max CAM)^alpha: a low alpha gives much background, so what is
    foreground there is safe; a high alpha gives little, so what is background there is safe.

    Args:
        low_alpha, high_alpha: labels, 0 is background; integers of one shape, (N, H, W) or (H, W).
        valid: bool in that shape; pixels that are image. None (default): all.
        ignore_index: label for pixels that are neither, and for those that are not valid.
    Returns:
        int64 in that shape: the low map's foreground, 0 where the high map says background, else
        `ignore_index`; where both hold, background, as published.
    Raises:
        SegmendError: the shapes differ.
    """
    for name, other in (("high_alpha", high_alpha), ("valid", valid)):
        if other is not None and other.shape != low_alpha.shape:
            raise SegmendError(
                f"{name}: want low_alpha's shape {tuple(low_alpha.shape)}, got {tuple(other.shape)}"
            )
    labels = low_alpha.long().masked_fill(low_alpha == 0, ignore_index)
    labels = labels.masked_fill(high_alpha == 0, 0)
    return labels if valid is None else labels.masked_fill(~valid, ignore_index)


class PairLabels(NamedTuple):
    """Bool (N, D, H, W) each: both background, both of one object class, of different classes."""

    background: Tensor
    foreground: Tensor
    negative: Tensor


def pair_labels(
    labels: Tensor,
    offsets: Sequence[Offset],
    *,
    borders: Borders = "all",
    ignore_index: int = 255,
) -> PairLabels:
    """What the labels of two neighbours say about their pair.

    Args:
        labels: integer (N, H, W); 0 is background. A pair with an ignored pixel is in no set.
        offsets: `half_plane_offsets`.
        borders: `existing_pairs`; must be what the affinity was computed with.
        ignore_index: label of ignored pixels.
    Raises:
        SegmendError: `labels` is not integer (N, H, W).
    """
    if labels.ndim != 3 or labels.is_floating_point():
        raise SegmendError(
            f"labels: want integer (N, H, W), got {labels.dtype} {tuple(labels.shape)}"
        )
    height, width = labels.shape[1:]
    exists = existing_pairs(height, width, offsets, borders=borders, device=labels.device)
    targets = labels.new_full((len(labels), len(offsets), height, width), ignore_index)
    for d, offset in enumerate(offsets):
        rows, cols = overlap(offset, height, width)
        targets[:, d, rows, cols] = labels[(slice(None), *shifted(rows, cols, offset))]
    sources = labels.unsqueeze(1)
    known = (sources != ignore_index) & (targets != ignore_index) & exists
    same = known & (sources == targets)
    return PairLabels(same & (sources == 0), same & (sources != 0), known & (sources != targets))


def affinity_loss_terms(affinity: Tensor, pairs: PairLabels) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the (background, foreground, negative) pairs of the logarithmic loss.

    -log(a + 1e-5) for pairs that should be alike and -log(1 + 1e-5 - a) for those that should
    not, divided by the number of pairs + 1e-5, so that no pairs give 0. Arguments and errors:
    `affinity_loss`.
    """
    if affinity.shape != pairs.background.shape:
        raise SegmendError(
            f"affinity: want the labels' shape {tuple(pairs.background.shape)}, "
            f"got {tuple(affinity.shape)}"
        )
    affinity = affinity.to(torch.promote_types(affinity.dtype, torch.float32))

    def mean(chosen: Tensor, *, alike: bool) -> Tensor:
        # Other pairs are replaced before the logarithm: a NaN there must not reach the gradient.
        likelihood = affinity if alike else 1 - affinity
        likelihood = torch.where(chosen, likelihood, torch.ones_like(likelihood)) + _EPSILON
        loss = torch.where(chosen, -likelihood.log(), torch.zeros_like(likelihood))
        return loss.sum() / (chosen.sum() + _EPSILON)

    return (
        mean(pairs.background, alike=True),
        mean(pairs.foreground, alike=True),
        mean(pairs.negative, alike=False),
    )


def affinity_loss(affinity: Tensor, pairs: PairLabels) -> Tensor:
    """AffinityNet's loss: 1/4 background + 1/4 foreground + 1/2 negative pairs.

    Args:
        affinity: float in [0, 1], (N, D, H, W), of `pairwise_affinity` or `boundary_affinity`.
        pairs: of `pair_labels`, with the same offsets and borders.
    Returns:
        Scalar; 0 where no pair is labelled.
    Raises:
        SegmendError: the shapes differ.
    Reference:
        Ahn and Kwak, CVPR 2018, with the epsilons of the published code; IRN
        (CVPR 2019) has the same.
    """
    background, foreground, negative = affinity_loss_terms(affinity, pairs)
    return background / 4 + foreground / 4 + negative / 2
