"""Puzzle-CAM: an image and its four tiles are to have the same maps."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.tags.activation import at_least_float32, check_maps, check_tags, check_valid

RAMP = 0.5
"""Published: the weight grows linearly over the first half of the training."""


def tiled(images: Tensor) -> Tensor:
    """The four quarters of images (N, 3, H, W), H and W even: (4 N, 3, H / 2, W / 2).

    All upper left ones come first, then upper right, lower left, lower right.
    """
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        raise SegmendError(f"images: want even sides, got {height} x {width}")
    rows = images.chunk(2, -2)
    return torch.cat([part for row in rows for part in row.chunk(2, -1)])


def merged(maps: Tensor) -> Tensor:
    """Maps of four tiles, (4 N, C, h, w) in the order of `tiled`, put together again."""
    upper_left, upper_right, lower_left, lower_right = maps.chunk(4)
    upper = torch.cat([upper_left, upper_right], -1)
    return torch.cat([upper, torch.cat([lower_left, lower_right], -1)], -2)


def reconstruction_loss(
    whole: Tensor, parts: Tensor, tags: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Mean over images, all classes and pixels of |whole - parts|, 0 where a class is not tagged.

    Args:
        whole, parts: maps before any activation of images, and merged of tiles, (N, C, h, w).
        tags: (N, C) in {0, 1}.
        valid: bool (N, h, w), pixels that count. None (default, published): all.
    Returns:
        Scalar; gradients reach both.
    Raises:
        SegmendError: shapes are not as above.
    Reference:
        Jo and Yu, ICIP 2021.
    """
    check_maps("whole", whole)
    if parts.shape != whole.shape:
        raise SegmendError(f"parts: want {tuple(whole.shape)}, got {tuple(parts.shape)}")
    counted = check_tags(tags, whole)[:, :, None, None]
    pixels = torch.tensor(whole[:, 0].numel(), device=whole.device)
    if valid is not None:
        check_valid(valid, whole)
        counted, pixels = counted & valid.unsqueeze(1), valid.sum()
    apart = (at_least_float32(whole) - at_least_float32(parts)).masked_fill(~counted, 0)
    return apart.abs().sum() / (pixels * whole.shape[1]).clamp(min=1)


def ramp(done: float) -> float:
    """Share of its final weight that the loss has when `done` of the training lies behind."""
    return min(done / RAMP, 1.0)
