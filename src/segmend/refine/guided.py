"""The guided filter: scores drawn to the edges of the image that they are scores of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError

FLOOR = 1e-4
"""Filtered probabilities are kept this far from 0 and 1, before they become logits again."""


SMALLEST = 1e-5
"""Least variance that an image is taken to have: one that is all of one colour has none."""


class Guide(NamedTuple):
    """radius: half the window in pixels. epsilon: share of the image's own colour variance that is
    still taken for noise, so that dim images keep their edges as bright ones do."""

    radius: int
    epsilon: float


GUIDES = (Guide(2, 0.3), Guide(4, 0.3), Guide(8, 0.3))
"""What the gate tries."""


def guided_filter(logits: Tensor, images: Tensor, guide: Guide) -> Tensor:
    """Logits whose probabilities are, in every window, an affine function of the colour.

    Args:
        logits: (N, C, H, W); one channel is read by a sigmoid, several by a softmax.
        images: (N, 3, H, W) in [0, 1].
    Returns:
        (N, C, H, W): log-odds of the filtered probability, or log-probabilities of several.
        Costs about 30 box filters of the image and 8 a channel, whatever the radius.
    Raises:
        SegmendError: the sizes differ.
    Reference:
        He, Sun, Tang: Guided Image Filtering, PAMI 2013, section 3.4 (colour guidance); the
        relative epsilon is ours.
    """
    if images.shape != (logits.shape[0], 3, *logits.shape[2:]):
        raise SegmendError(
            f"images: want {(logits.shape[0], 3, *logits.shape[2:])} beside logits "
            f"{tuple(logits.shape)}, got {tuple(images.shape)}"
        )
    single = logits.shape[1] == 1
    probs = logits.sigmoid() if single else logits.softmax(1)
    radius = guide.radius
    epsilon = guide.epsilon * images.var((2, 3), unbiased=False).mean(1).clamp_min(SMALLEST)
    epsilon = epsilon[:, None, None]
    mean, red, green, blue = _box(images, radius), *images.unbind(1)
    m_red, m_green, m_blue = mean.unbind(1)
    # The six entries of the colours' covariance in each window, and its inverse by cofactors.
    pairs = torch.stack(
        [red * red, red * green, red * blue, green * green, green * blue, blue * blue], 1
    )
    rr, rg, rb, gg, gb, bb = _box(pairs, radius).unbind(1)
    rr, gg, bb = (
        rr - m_red * m_red + epsilon,
        gg - m_green * m_green + epsilon,
        bb - m_blue * m_blue + epsilon,
    )
    rg, rb, gb = rg - m_red * m_green, rb - m_red * m_blue, gb - m_green * m_blue
    inverse = torch.stack(
        [
            torch.stack([gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg], 1),
            torch.stack([rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb], 1),
            torch.stack([rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg], 1),
        ],
        1,
    )  # (N, 3, 3, H, W), times the determinant
    determinant = (torch.stack([rr, rg, rb], 1) * inverse[:, 0]).sum(1, keepdim=True)
    filtered = [
        _filter_channel(probs[:, [c]], images, mean, inverse, determinant, radius)
        for c in range(probs.shape[1])
    ]
    result = torch.cat(filtered, 1).clamp(FLOOR, 1 - FLOOR)
    return result.logit() if single else result.log()


def _filter_channel(
    probs: Tensor, images: Tensor, mean: Tensor, inverse: Tensor, determinant: Tensor, radius: int
) -> Tensor:
    """One channel (N, 1, H, W), given the images' statistics in every window."""
    mean_p = _box(probs, radius)
    with_colours = _box(images * probs, radius) - mean * mean_p
    slope = (inverse * with_colours.unsqueeze(1)).sum(2) / determinant
    offset = mean_p - (slope * mean).sum(1, keepdim=True)
    return (_box(slope, radius) * images).sum(1, keepdim=True) + _box(offset, radius)


def _box(maps: Tensor, radius: int) -> Tensor:
    """Mean over the window of 2 * radius + 1 pixels, cut at the border; rows, then columns."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(maps, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)
