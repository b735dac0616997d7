"""Thresholds that patches choose for themselves, and what a choice is worth on pixels it missed.

A patch that may choose its threshold does so for the pooled IoU, tp / (positives + fp): for a price
`rate` of a false positive it takes the cut with the largest tp - rate * fp. With the rate equal to
the best reachable IoU these cuts maximise the pooled IoU over all combinations of cuts at once
(Dinkelbach, 1967); as that IoU is not known before the last image, counts are kept for a ladder of
rates and the best rung is taken. Between two rungs the loss is of second order. At any rung the
choice is exact, and of equally good cuts the one nearest to the base's threshold is taken, so a
patch without errors is left as it is.

The same choice is made on one half of the pixels (squares of 8 pixels, like a chessboard) and
counted on the other: what is lost is what choosing freely wins on noise by itself.

With many classes a cut lies between background and each pixel's best other class, and "positive"
means that this class is the true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.frame import Array
from segmend.diagnose.oracles.levels import Levels

RATES = np.linspace(0.12, 1.0, 12, dtype=np.float32)
"""Prices of a false positive in true positives."""

SQUARE = 8
"""Side in pixels of the squares that are held out together."""


@dataclass(frozen=True)
class Choice:
    """What one image's patches chose, for one patch size.

    counts, held_out: int64 (rates, 2), [tp, fp] of all pixels; of every pixel under the cut that
        the other half of its patch chose.
    cuts: int (patches, rates), held_out_cuts: int (patches, 2, rates), by the half it applies to.
    """

    counts: NDArray[np.int64]
    held_out: NDArray[np.int64]
    cuts: Array
    held_out_cuts: Array


def patch_histogram(
    levels: Array, positive: Array, valid: Array | None, size: int, count: int
) -> NDArray[np.int32]:
    """Pixels by patch, half, truth and level: (patches along each axis ..., 2, 2, count).

    Args:
        levels: int32 below `count`, (H, W) or (H, W, D). positive: bool. size: pixels a side.
    """
    places, grid = patch_places(levels.shape, size)
    key = places * np.int64(2 * count) + (levels + positive * np.int32(count))
    chosen = key.reshape(-1) if valid is None else key[valid]
    cells = int(np.prod(grid))
    counts = np.bincount(chosen, minlength=cells * 4 * count)
    return counts.astype(np.int32).reshape(*grid, 2, 2, count)


@lru_cache(maxsize=4)
def patch_places(shape: tuple[int, ...], size: int) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """2 * patch + half of every pixel, and the patches along each axis."""
    grid = tuple(-(-side // size) for side in shape)
    patch, half = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for axis, (side, cells) in enumerate(zip(shape, grid, strict=True)):
        view = [-1 if a == axis else 1 for a in range(len(shape))]
        at = np.arange(side)
        patch = patch * cells + (at // size).reshape(view)
        half = half + (at // SQUARE).reshape(view)
    return 2 * patch + half % 2, grid


def merge_patches(histogram: NDArray[np.int32], times: int) -> NDArray[np.int32]:
    """The histogram of patches `times` as large, from the top left."""
    for axis in range(histogram.ndim - 3):
        histogram = np.swapaxes(histogram, 0, axis)
        merged = histogram[::times].copy()
        for step in range(1, times):
            part = histogram[step::times]
            merged[: len(part)] += part
        histogram = np.swapaxes(merged, 0, axis)
    return histogram


def choose(histogram: NDArray[np.int32], levels: Levels) -> Choice:
    """The best cut of every patch at every rate; `histogram` as from `patch_histogram`."""
    count, base = levels.count, levels.base
    flat = histogram.reshape(-1, 2, 2, count)
    missed, alarms = flat[:, :, 1, :base], flat[:, :, 0, base:]
    active = missed.any(axis=(1, 2)) | alarms.any(axis=(1, 2))
    kept = int(flat[~active][:, :, 1].sum())
    cuts = np.full((len(flat), len(RATES)), base)
    swapped = np.full((len(flat), 2, len(RATES)), base)
    # Pixels above each cut, the highest cut (which calls nothing foreground) first.
    exact = np.float32 if flat.sum() < 1 << 24 else np.float64
    above = np.zeros((int(active.sum()), 2, 2, count + 1), dtype=exact)
    np.cumsum(flat[active][..., ::-1], axis=-1, dtype=exact, out=above[..., 1:])
    # In this order the first of several best cuts is the one nearest to the base's.
    order = np.argsort(np.abs(count - np.arange(count + 1) - base), kind="stable")
    sides = np.stack((above.sum(1), above[:, 0], above[:, 1])).take(order, axis=-1)
    alarms, hits = np.ascontiguousarray(sides[:, :, 0]), np.ascontiguousarray(sides[:, :, 1])
    value = np.empty_like(alarms)
    for rung, rate in enumerate(RATES):
        np.multiply(alarms, -rate, out=value)
        value += hits
        best = count - order[value.argmax(-1)]
        cuts[active, rung] = best[0]
        swapped[active, 0, rung], swapped[active, 1, rung] = best[2], best[1]
    whole = np.take_along_axis(above.sum(1), count - cuts[active][:, None], axis=-1)
    halves = np.take_along_axis(above, count - swapped[active][:, :, None], axis=-1)
    counts = whole.sum(0)[::-1].T.astype(np.int64)
    held_out = halves.sum((0, 1))[::-1].T.astype(np.int64)
    counts[:, 0] += kept
    held_out[:, 0] += kept
    return Choice(counts, held_out, cuts, swapped)
