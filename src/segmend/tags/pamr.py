"""PAMR: masks drawn to colour edges by local averages, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import at_least_float32

DILATIONS = (1, 2, 4, 8, 12, 24)
ITERATIONS = 10
_RING = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def pamr(
    masks: Tensor,
    images: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Replace each pixel's scores, again and again, by a mean of its neighbours of like colour.

    Args:
        masks: scores or probabilities, float (N, K, H, W).
        images: float in [0, 1], (N, 3, any, any); resized bilinearly to the masks if they differ.
        dilations: distances of the rings of 8 neighbours, in pixels of the masks.
        iterations: at least 0.
    Returns:
        (N, K, H, W), at least float32, within the range of each class. Differentiable in masks.
    Raises:
        SegmendError: shapes or numbers are not as above.
    Reference:
        Araslanov and Roth, CVPR 2020, and its published configuration.
    """
    if masks.ndim != 4 or images.ndim != 4 or images.shape[:2] != (len(masks), 3):
        raise SegmendError(
            "pamr: want masks (N, K, H, W) and images (N, 3, H, W), "
            f"got {tuple(masks.shape)} and {tuple(images.shape)}"
        )
    if iterations < 0:
        raise SegmendError(f"iterations: want a number >= 0, got {iterations}")
    masks, images = at_least_float32(masks), at_least_float32(images)
    if images.shape[2:] != masks.shape[2:]:
        images = F.interpolate(images, masks.shape[2:], mode="bilinear", align_corners=False)
    affinity = colour_affinity(images, dilations=dilations)
    for _ in range(iterations):
        mean = torch.zeros_like(masks)
        for weight, near in zip(affinity, neighbours(masks, dilations), strict=True):
            mean = mean + weight.unsqueeze(1) * near
        masks = mean
    return masks


def colour_affinity(images: Tensor, *, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Weights of each pixel's neighbours: (8 * dilations, N, H, W), sums to 1 over the first.

    A softmax over the neighbours of the mean over channels of -|difference| / (1e-8 + 0.1 s); s
    is the unbiased standard deviation of the channel over the 9 pixels of all rings, the centre
    once per ring. The centre itself is no neighbour. Outside, border pixels are repeated.
    """
    near = torch.stack(list(neighbours(images, dilations)))
    samples = torch.cat([near, images.expand(len(dilations), *images.shape)])
    spread = 1e-8 + 0.1 * samples.std(0)
    return torch.softmax(-((near - images).abs() / spread).mean(2), 0)


def neighbours(maps: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Views of the maps (N, C, H, W) shifted to each neighbour: ring by ring, row by row."""
    if len(dilations) == 0 or min(dilations) < 1:
        raise SegmendError(f"dilations: want at least one, all >= 1, got {tuple(dilations)}")
    height, width = maps.shape[2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    return [
        padded[:, :, reach + dy * d :, reach + dx * d :][:, :, :height, :width]
        for d in dilations
        for dy, dx in _RING
    ]
