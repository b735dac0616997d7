"""IRN's maths: affinities from class boundaries, displacements to a centre, and their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.affinity import (
    Offset,
    PairLabels,
    affinity_loss,
    half_plane_offsets,
    overlap,
    shifted,
)
from segmend.tags.random_walk import random_walk

TRAINING_RADIUS = 10
"""152 offsets at stride 4; the walk at inference has radius 5."""
_EPSILON = 1e-5


def confident_labels(
    strict: Tensor,
    lenient: Tensor,
    valid: Tensor | None = None,
    *,
    ignore_index: int = 255,
) -> Tensor:
    """Labels that IRN trusts, from label maps with a high and with a low background score.

    Args:
        strict: labels with much background (published: constant score 0.30, after a CRF on the
            hard labels); integer (N, H, W) or (H, W), 0 is background.
        lenient: labels with little background (published: 0.05), in that shape.
        valid: bool in that shape; pixels that are image. None (default): all.
        ignore_index: label of the others.
    Returns:
        int64: the strict map's foreground, 0 where both maps say background, else `ignore_index`.
    Raises:
        SegmendError: the shapes differ.
    Reference:
        Ahn et al., CVPR 2019 (IRN) and its published code. `affinity_labels` differs
        where the strict map has foreground and the lenient one background: there it says 0.
    """
    for name, other in (("lenient", lenient), ("valid", valid)):
        if other is not None and other.shape != strict.shape:
            raise SegmendError(
                f"{name}: want strict's shape {tuple(strict.shape)}, got {tuple(other.shape)}"
            )
    unsure = (strict == 0) & (lenient != 0)
    if valid is not None:
        unsure = unsure | ~valid
    return strict.long().masked_fill(unsure, ignore_index)


def path_between(offset: Offset) -> list[Offset]:
    """Pixels (dy, dx) closer than 1 to the segment from (0, 0) to `offset`, ends included.

    None lies outside the rectangle between the ends, so a path never leaves the map.
    """
    dy, dx = offset
    rows = range(min(0, dy), max(0, dy) + 1)
    cols = range(min(0, dx), max(0, dx) + 1)
    near = dy**2 + dx**2
    return [(y, x) for y in rows for x in cols if (dy * x - dx * y) ** 2 < near or near == 0]


def boundary_affinity(boundary: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Affinity of neighbours: 1 - the strongest class boundary on the line between them.

    Args:
        boundary: probability of a class boundary in [0, 1], float (N, H, W).
        offsets: `half_plane_offsets`.
    Returns:
        (N, D, H, W), at least float32; 0 where the target lies outside the map, as if the map
        had a boundary of 1 around it. The gradient of a pair goes to one strongest pixel.
    Raises:
        SegmendError: `boundary` is not float (N, H, W).
    Reference:
        Ahn et al., CVPR 2019.
    """
    if boundary.ndim != 3 or not boundary.is_floating_point():
        raise SegmendError(
            f"boundary: want float (N, H, W), got {boundary.dtype} {tuple(boundary.shape)}"
        )
    boundary = boundary.to(torch.promote_types(boundary.dtype, torch.float32))
    batch, height, width = boundary.shape
    flat, place = boundary.flatten(1), torch.arange(height * width, device=boundary.device)
    place = place.reshape(height, width)
    planes = []
    for offset in offsets:
        rows, cols = overlap(offset, height, width)
        index = _strongest(boundary.detach(), place, rows, cols, path_between(offset))
        alike = 1 - flat.gather(1, index.flatten(1)).reshape(index.shape)
        planes.append(F.pad(alike, (cols.start, width - cols.stop, rows.start, height - rows.stop)))
    if not planes:
        return boundary.new_zeros(batch, 0, height, width)
    return torch.stack(planes, 1)


def _strongest(
    boundary: Tensor, place: Tensor, rows: slice, cols: slice, path: Sequence[Offset]
) -> Tensor:
    """Index into the flat map of the strongest pixel on each source's path: int64 (N, h, w)."""
    best = boundary[:, rows, cols]
    index = place[rows, cols].expand(best.shape)
    for step in path:
        here = shifted(rows, cols, step)
        value = boundary[(slice(None), *here)]
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, place[here], index)
    return index


def displacement_losses(
    displacement: Tensor, pairs: PairLabels, offsets: Sequence[Offset]
) -> tuple[Tensor, Tensor]:
    """How far displacements are from pointing two pixels at one point: (foreground, background).

    Args:
        displacement: float (N, 2, H, W): rows down and columns right to the object's centre, in
            pixels of this map.
        pairs: of `pair_labels` (foreground pairs are of one class, so of one object nearby).
        offsets: those of `pairs`.
    Returns:
        Two scalars, means over the pairs and both axes; 0 without a pair. Foreground: |D_i - D_j
        - offset|, for both pixels of a pair to reach one place. Background: |D_i - D_j|.
    Raises:
        SegmendError: the shapes do not fit.
    Reference:
        Ahn et al., CVPR 2019.
    """
    batch, count, height, width = pairs.foreground.shape
    if displacement.shape != (batch, 2, height, width) or count != len(offsets):
        raise SegmendError(
            f"displacement: want (N, 2, H, W) = {(batch, 2, height, width)} with {count} offsets "
            f"like the pairs, got {tuple(displacement.shape)} with {len(offsets)}"
        )
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    foreground, background = displacement.new_zeros(2)
    for d, offset in enumerate(offsets):
        sources = overlap(offset, height, width)
        targets = shifted(*sources, offset)
        step = displacement[(..., *sources)] - displacement[(..., *targets)]
        apart = step - step.new_tensor(offset).reshape(2, 1, 1)
        foreground = foreground + _sum(apart, pairs.foreground[(slice(None), d, *sources)])
        background = background + _sum(step, pairs.background[(slice(None), d, *sources)])
    return (
        foreground / (2 * pairs.foreground.sum() + _EPSILON),
        background / (2 * pairs.background.sum() + _EPSILON),
    )


def _sum(difference: Tensor, chosen: Tensor) -> Tensor:
    """Sum of |difference| (N, 2, h, w) over `chosen` (N, h, w), whatever the others hold."""
    chosen = chosen.unsqueeze(1)
    return torch.where(chosen, difference, torch.zeros_like(difference)).abs().sum()


def irn_loss(
    affinity: Tensor, displacement: Tensor, pairs: PairLabels, offsets: Sequence[Offset]
) -> Tensor:
    """IRN's loss: the affinity loss plus half of both displacement losses.

    Its published form, (background / 2 + foreground / 2 + negative) / 2 for the affinities, is
    `affinity_loss`. Arguments and errors: there and `displacement_losses`.
    """
    foreground, background = displacement_losses(displacement, pairs, offsets)
    return affinity_loss(affinity, pairs) + (foreground + background) / 2


def boundary_walk(
    scores: Tensor,
    boundary: Tensor,
    *,
    radius: int = 5,
    beta: float = 10.0,
    steps: int = 256,
    tolerance: float = 1e-7,
) -> Tensor:
    """IRN's random walk: scores times (1 - boundary), spread where no boundary is crossed.

    Args:
        scores: float (N, K, H, W), foreground only, normalised to a maximum of 1.
        boundary: probability of a class boundary in [0, 1], float (N, H, W).
        radius, beta, steps: published 5, 10 and 2 ** 8.
        tolerance: `random_walk`.
    Returns:
        (N, K, H, W), at least float32. Published next: `upsampled_scores`, and a constant
        background score of 0.25.
    Raises:
        SegmendError: shapes or numbers are not as above.
    """
    offsets = half_plane_offsets(radius)
    affinity = boundary_affinity(boundary, offsets)
    if scores.ndim != 4 or (len(scores), *scores.shape[2:]) != boundary.shape:
        raise SegmendError(
            f"scores: want (N, K, H, W) like the boundary {tuple(boundary.shape)}, "
            f"got {tuple(scores.shape)}"
        )
    start = scores * (1 - boundary.unsqueeze(1))
    return random_walk(start, affinity, offsets, beta=beta, steps=steps, tolerance=tolerance)


def upsampled_scores(
    scores: Tensor, size: tuple[int, int], *, stride: int = 4, per_class: bool = False
) -> Tensor:
    """Walked scores at image size, divided by their maximum.

    Args:
        scores: float >= 0, (N, K, h, w), of `boundary_walk`.
        size: (H, W) of the image; what the up-sampled map has beyond it is cut off.
        stride: of the map; bilinear, without aligned corners.
        per_class: divide each class by its own maximum. False (published): by the image's one
            maximum, so that a weak second class loses to a constant background.
    Returns:
        (N, K, H, W) in [0, 1]; a map of zeros stays 0.
    """
    grown = F.interpolate(scores, scale_factor=float(stride), mode="bilinear", align_corners=False)
    grown = grown[:, :, : size[0], : size[1]]
    if grown.shape[2:] != size:
        raise SegmendError(
            f"size: want at most {stride} times the map {tuple(scores.shape[2:])}, got {size}"
        )
    if grown.numel() == 0:
        return grown
    peak = grown.amax((2, 3) if per_class else (1, 2, 3), keepdim=True)
    return grown / torch.where(peak > 0, peak, torch.ones_like(peak))
