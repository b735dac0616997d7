"""How far background lies from the nearest target, and how much context learning that leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segmend.errors import SegmendError

TAU = 30.0
"""Published for liver tumours: up to here from the target, context labels count in full."""
SIGMA = 20.0
"""Published for liver tumours: beyond, they fade by 1/e over this distance."""


def distance_map(
    target: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    ignore_index: int = 255,
    truncate: bool = False,
) -> Tensor:
    """Signed Euclidean distance of every pixel to the foreground, all its classes merged.

    Args:
        target: int64 (N, H, W) or (N, H, W, D), 0 is background; ignored pixels are not
            foreground.
        spacing: size of a voxel along each axis, for example in mm. None (default, published):
            voxels count as cubes of side 1.
        truncate: round towards zero, as the published code does by accident.
    Returns:
        Float32 like target, in the unit of spacing: outside the distance to the nearest
        foreground pixel, inside -(distance to background - one voxel, the smallest side). An
        image without foreground, or without background, has 0 everywhere, as published.
    Raises:
        SegmendError: shape, dtype or spacing is not as above.
    """
    _check_target(target)
    sides = _check_spacing(spacing, target.ndim - 1)
    foreground = ((target != 0) & (target != ignore_index)).cpu().numpy()
    found = np.stack([_signed_distance(each, sides) for each in foreground])
    if truncate:
        found = np.trunc(found)
    return torch.from_numpy(found).to(torch.float32).to(target.device)


def mask_from_distance(distance: Tensor, *, tau: float = TAU, sigma: float = SIGMA) -> Tensor:
    """min(1, exp((tau - distance) / sigma)): 1 near the target, falling to 0 far away.

    Args:
        distance: float, any shape, of `distance_map`: cropped, turned and mirrored with its image.
        tau, sigma: in the unit of distance.
    Raises:
        SegmendError: tau < 0 or sigma <= 0.
    """
    if not (tau >= 0 and math.isfinite(tau) and sigma > 0 and math.isfinite(sigma)):
        raise SegmendError(f"distance mask: want tau >= 0 and sigma > 0, got {tau} and {sigma}")
    return ((tau - distance) / sigma).clamp(max=0).exp()


def distance_mask(
    target: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    tau: float = TAU,
    sigma: float = SIGMA,
    ignore_index: int = 255,
    truncate: bool = False,
) -> Tensor:
    """Where context labels are to be learned: 1 on and near the target, falling to 0 far away.

    `mask_from_distance` of `distance_map`: float32 in [0, 1] of target's shape; see there for
    arguments and errors. An image without foreground has 1 everywhere, as published.
    Source: the published code's distance rule; with spacing ours: theirs counts voxels.
    """
    distance = distance_map(target, spacing=spacing, ignore_index=ignore_index, truncate=truncate)
    return mask_from_distance(distance, tau=tau, sigma=sigma)


@dataclass(frozen=True)
class MaskRule:
    """How a batch gets its mask; tau=None: it has none. See `distance_mask`."""

    tau: float | None
    sigma: float
    spacing: Sequence[float] | None
    ignore_index: int

    def mask(self, target: Tensor, distance: Tensor | None) -> Tensor | None:
        """From the batch's own distances, or else from its target."""
        if self.tau is None:
            return None
        if distance is None:
            distance = distance_map(target, spacing=self.spacing, ignore_index=self.ignore_index)
        return mask_from_distance(distance, tau=self.tau, sigma=self.sigma)


def faded(mask: Tensor | None, target: Tensor, share: float) -> Tensor | None:
    """A share, up to 1, of the mask."""
    if share >= 1:
        return mask
    return torch.full(target.shape, share, device=target.device) if mask is None else share * mask


def _signed_distance(foreground: np.ndarray, sides: tuple[float, ...]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if not foreground.any() or foreground.all():
        return np.zeros(foreground.shape)
    outside = distance_transform_edt(~foreground, sampling=sides)
    inside = distance_transform_edt(foreground, sampling=sides)
    signed: np.ndarray = np.where(foreground, min(sides) - inside, outside)
    return signed


def _check_target(target: Tensor) -> None:
    if target.ndim not in (3, 4) or target.is_floating_point() or target.is_complex():
        raise SegmendError(
            f"target: want integer (N, H, W) or (N, H, W, D), got {target.dtype} "
            f"{tuple(target.shape)}"
        )


def _check_spacing(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    sides = (1.0,) * axes if spacing is None else tuple(float(side) for side in spacing)
    if len(sides) != axes or not all(side > 0 and math.isfinite(side) for side in sides):
        raise SegmendError(
            f"spacing: want {axes} lengths > 0, one an axis of the image, got {spacing}; look at "
            "the header of the image"
        )
    return sides
