"""Sums over all pairs of near pixels, weighted by likeness of colour, without a matrix of pairs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

COLOUR_EPSILON = 1e-5
"""Keeps the published logarithm of d / (1 - d) finite."""

_PAIRS = {"cpu": 1 << 19}  # pairs at a time: two buffers of them stay in cache
_PAIRS_ELSEWHERE = 1 << 23
_MOST = 80.0  # exp of more overflows float32; t is 1 long before
_CHANNELS = 8  # matrix products like whole vector registers


class PairTerm(NamedTuple):
    """What the weight of a pair depends on: see `feature_similarity_loss`."""

    mu: float
    sigma: float | None
    radius: int
    exponent: float


def gaussian_tail(radius: int, sigma: float) -> float:
    """Sum of the published Gaussian weight over all cells outside the square window.

    With g(dy, dx) = exp(-(dy^2 + dx^2) / (2 sigma^2)) / (2 pi sigma^2): its sum over the grid less
    that over max(|dy|, |dx|) <= radius. About 1 - erf((radius + 1/2) / (sqrt(2) sigma))^2.
    """
    reach = max(radius, math.ceil(12 * sigma)) + 1
    steps = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(reach + 1)]
    inside = steps[0] + 2 * math.fsum(steps[1 : radius + 1])
    outside = 2 * math.fsum(steps[radius + 1 :])
    return (2 * inside + outside) * outside / (2 * math.pi * sigma**2)


def similarity_field(maps: Tensor, image: Tensor, valid: Tensor | None, term: PairTerm) -> Tensor:
    """G_i = sum over j of W_ij sign(u_i - u_j) |u_i - u_j|^(p - 1), channel by channel.

    Half of the sum over ordered pairs of W_ij |u_i - u_j|^p is then the sum of u * G, and its
    gradient p G. With p = 2, G = (D - W) u: two matrix products a block. Each pair is visited
    once: targets of one row and some columns meet all sources of their window on the same row to
    their right and on the rows below; the transpose of the block serves the sources.

    Args:
        maps: u, float (K, h, w).
        image: (3, h, w) in [0, 1], of the same dtype.
        valid: bool (h, w); pairs with another pixel weigh nothing. None: all are.
        term: W_ij = g t(colour distance), within `radius` cells in either direction.
    """
    channels, rows, cols = maps.shape
    below = min(term.radius, rows - 1)
    values, colours = _channels_last(maps, image, valid, below)
    sums = torch.zeros_like(values)
    for targets, sources in _strips(cols, term.radius):
        strip = _Strip(
            values[:, targets].contiguous(),
            values[:, sources].contiguous(),
            colours[:, :, targets].contiguous(),
            colours[:, :, sources].contiguous(),
            _spatial(term, below, targets, sources, values[..., channels]),
        )
        to_targets, to_sources = _strip_sums(strip, rows, channels, term)
        sums[:, targets] += to_targets
        sums[:, sources] += to_sources
    sums, values = sums[:rows].permute(2, 0, 1), values[:rows].permute(2, 0, 1)
    if term.exponent != 2:
        return sums[:channels]
    degree, known = sums[channels], values[channels]
    return (degree * values[:channels] - sums[:channels]) * known


def _strips(cols: int, radius: int) -> list[tuple[slice, slice]]:
    """Columns cut into equal strips, each with the columns of its window.

    About as wide as the window: wider ones meet more pairs beyond it, narrower ones copy more.
    """
    number = max(1, round(cols / max(16, 2 * radius)))
    edges = [cols * i // number for i in range(number + 1)]
    return [
        (slice(first, last), slice(max(0, first - radius), min(cols, last + radius)))
        for first, last in pairwise(edges)
    ]


class _Strip(NamedTuple):
    """Some columns as targets (rows, tw, K), the columns in their window as sources (rows, sw, K).

    Colours are (3, rows, columns); spatial weights (tw, (1 + rows below) * sw).
    """

    targets: Tensor
    sources: Tensor
    target_colours: Tensor
    source_colours: Tensor
    spatial: Tensor


def _channels_last(
    maps: Tensor, image: Tensor, valid: Tensor | None, below: int
) -> tuple[Tensor, Tensor]:
    """Values (h + below, w, K') and a third of the colours (3, h + below, w), 0 where not valid.

    Values are the maps, then one channel of `valid`, whose sums are the degrees, then zeros.
    """
    channels, rows, cols = maps.shape
    known = maps.new_ones(rows, cols) if valid is None else valid.to(maps.dtype)
    if valid is not None:
        maps, image = maps.masked_fill(~valid, 0), image.masked_fill(~valid, 0)
    width = -(-(channels + 1) // _CHANNELS) * _CHANNELS
    values = maps.new_zeros(rows + below, cols, width)
    values[:rows, :, :channels] = maps.permute(1, 2, 0)
    values[:rows, :, channels] = known
    colours = image.new_zeros(3, rows + below, cols)
    colours[:, :rows] = image / 3
    return values, colours


def _spatial(term: PairTerm, below: int, targets: slice, sources: slice, known: Tensor) -> Tensor:
    """Weight by place (tw, (1 + below) * sw), 0 beyond the window and to the left on the same row.

    Each pair of one row would otherwise be met from both of its ends.
    """
    across = torch.arange(sources.start, sources.stop, device=known.device)
    across = across - torch.arange(targets.start, targets.stop, device=known.device)[:, None]
    down = torch.arange(below + 1, device=known.device)[:, None]
    inside = (across.abs() <= term.radius)[:, None] & ((down > 0) | (across > 0)[:, None])
    if term.sigma is None:
        return inside.flatten(1) / known.sum().clamp(min=1)
    over, scale = 1 / (2 * term.sigma**2), 1 / (2 * math.pi * term.sigma**2)
    column, row = (torch.exp(-over * steps.to(known.dtype) ** 2) for steps in (across, down))
    return (inside * column[:, None] * (scale * row)).flatten(1)


def _strip_sums(strip: _Strip, rows: int, channels: int, term: PairTerm) -> tuple[Tensor, Tensor]:
    """Sums that the strip's pairs give its targets and its sources, in the shape of each."""
    to_targets, to_sources = torch.zeros_like(strip.targets), torch.zeros_like(strip.sources)
    across, wide = strip.targets.shape[1], strip.sources.shape[1]
    deep = strip.spatial.shape[1] // wide
    limit = max(_PAIRS.get(strip.targets.device.type, _PAIRS_ELSEWHERE), across * wide * deep)
    buffers = strip.targets.new_empty(2, min(limit, rows * across * wide * deep))
    first = 0
    while first < rows:
        depth = min(deep, rows - first)
        number = min(rows - first, limit // (across * wide * depth))
        chunk = slice(first, first + number)
        weights = _weights(strip, chunk, depth * wide, term.mu, buffers)
        targets = strip.targets[chunk]
        sources = _windows(strip.sources, chunk, depth * wide)
        if term.exponent == 2:
            to_targets[chunk] += torch.bmm(weights, sources)
            shares = torch.bmm(weights.transpose(1, 2), targets)
        else:
            own, shares = _power_sums(weights, targets, sources, channels, term.exponent)
            to_targets[chunk] += own
        _add_windows(to_sources, shares.view(number, depth, wide, -1), first)
        first += number
    return to_targets, to_sources


def _windows(rows: Tensor, chunk: slice, length: int) -> Tensor:
    """For each row of the chunk, `length` cells from its start on: a view whose parts overlap."""
    stride = rows.stride()
    wide, inner = rows.shape[1], rows.shape[2:]
    return rows.as_strided(
        (chunk.stop - chunk.start, length, *inner),
        (wide * stride[1], stride[1], *stride[2:]),
        rows.storage_offset() + chunk.start * stride[0],
    )


def _add_windows(sums: Tensor, shares: Tensor, first: int) -> None:
    """Add shares (number, depth, ...) of windows that start at rows first, first + 1, ..."""
    number, depth = shares.shape[:2]
    if number < depth:
        for row in range(number):
            sums[first + row : first + row + depth] += shares[row]
    else:
        for row in range(depth):
            sums[first + row : first + row + number] += shares[:, row]


def _weights(strip: _Strip, chunk: slice, length: int, mu: float, buffers: Tensor) -> Tensor:
    """W (number, tw, length), in the second buffer: spatial weight times colour term t.

    With p = d + e and q = 1 - d + e = 1 + 2 e - p: t = (k p^2 - q^2) / (k p^2 + q^2)
    = 1 - 2 / (1 + k (p / q)^2), in as few passes over the pairs as there are.
    """
    shape = (chunk.stop - chunk.start, strip.targets.shape[1], length)
    total, part = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
    for channel in range(3):
        ours = strip.target_colours[channel, chunk, :, None]
        theirs = _windows(strip.source_colours[channel], chunk, length)[:, None]
        out = part if channel else total
        torch.sub(ours, theirs, out=out).abs_()
        if channel:
            total += part
    total += COLOUR_EPSILON
    torch.sub(total.new_tensor(1 + 2 * COLOUR_EPSILON), total, out=part)
    total /= part
    torch.addcmul(total.new_ones(()), total, total, value=math.exp(min(2 * mu, _MOST)), out=part)
    spatial = strip.spatial[:, :length]
    return torch.addcdiv(spatial, spatial, part, value=-2, out=part)


def _power_sums(
    weights: Tensor, targets: Tensor, sources: Tensor, channels: int, exponent: float
) -> tuple[Tensor, Tensor]:
    """The two sums of G itself for any exponent, one channel after the other."""
    ours, theirs = targets.movedim(2, 0)[..., None], sources.movedim(2, 0)[:, :, None]
    weights = weights * ours[channels] * theirs[channels]
    own, shares = torch.zeros_like(targets), sources.new_zeros(sources.shape)
    for channel in range(channels):
        step = ours[channel] - theirs[channel]
        step = step.sign() * step.abs().pow_(exponent - 1) * weights
        own[..., channel] = step.sum(2)
        shares[..., channel] = -step.sum(1)
    return own, shares
