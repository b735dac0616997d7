"""Bias by position: what is wrong in the same places of all images.

A model that is biased in a place is so in every image; noise is not. So the offset of each cell of
a grid over the frame is chosen on some images and counted on others, and the signed error per cell
is tested against random signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.oracles.thresholds import RATES
from segmend.diagnose.positions import PlaceTable
from segmend.diagnose.result import SpatialBias
from segmend.diagnose.scoring import Counts, score_of


@dataclass(frozen=True)
class PlaceFit:
    """Counts (groups, C, 3) as they are and with the offsets of the other groups' images; logits
    to add in each cell, chosen on all images."""

    base: Counts
    mended: Counts
    offset: NDArray[np.float64]


def fit_places(table: PlaceTable, image_counts: Counts) -> PlaceFit:
    """Choose an offset for every cell on all groups but one, and count it on that one.

    Args:
        image_counts: the base's (N, C, 3), image by image.
    """
    above = _above(table.histogram)
    num_images = len(image_counts)
    group = np.arange(num_images) % table.groups
    base = np.stack([image_counts[group == g].sum(0) for g in range(table.groups)])
    members = base[:, :, 0] + base[:, :, 2]
    whole, all_members = above.sum(0), members.sum(0)
    mended = np.empty_like(base)
    for g in range(table.groups):
        # A single group has nobody else to learn from.
        cuts = (
            np.full(len(whole), table.base)
            if table.groups == 1
            else _best_cuts(whole - above[g], all_members - members[g], table.base)
        )
        mended[g] = _counts(above[g], members[g], cuts)
    cuts = _best_cuts(whole, all_members, table.base)
    return PlaceFit(base, mended, table.offsets()[cuts])


def _above(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels at or above each cut: one more along the last axis, which holds 0."""
    sums = histogram[..., ::-1].cumsum(-1)[..., ::-1]
    return np.concatenate((sums, np.zeros_like(sums[..., :1])), axis=-1)


def _best_cuts(above: NDArray[np.int64], members: NDArray[np.int64], base: int) -> Counts:
    """The cut of each cell: at the exchange rate under which the pooled score is best."""
    right = above[:, :, 1].sum(1).astype(np.float64)
    wrong = (above[:, :, 0] + above[:, :, 2]).sum(1)
    order = np.argsort(np.abs(np.arange(right.shape[1]) - base), kind="stable")
    best = np.full(len(right), base)
    best_score = float(score_of(_counts(above, members, best)))
    for rate in RATES.astype(np.float64):
        value = right - rate * wrong
        cuts = order[value[:, order].argmax(1)]
        score = float(score_of(_counts(above, members, cuts)))
        if score > best_score:
            best, best_score = cuts, score
    return best


def _counts(above: NDArray[np.int64], members: NDArray[np.int64], cuts: Counts) -> Counts:
    """[tp, fp, fn] (C, 3) with these cuts; `members` (C,) are the pixels of each class."""
    kept = np.take_along_axis(above, cuts[:, None, None, None], axis=-1)[..., 0].sum(0)
    rest = above[..., 0].sum(0) - kept
    tp = np.concatenate((rest[:, 0].sum(keepdims=True), kept[:, 1]))
    fp = np.concatenate((rest[:, 1:].sum(keepdims=True).reshape(1), kept[:, 0] + kept[:, 2]))
    found: Counts = np.stack((tp, fp, members - tp), axis=-1)
    return found


def spatial_bias(
    errors: NDArray[np.float64],
    pixels: NDArray[np.float64],
    *,
    offset: NDArray[np.float64] | None,
    permutations: int,
    seed: int,
) -> SpatialBias:
    """The map of signed errors, and a randomisation test of its spread.

    The statistic is the standard deviation, over cells, of the pooled error after each image's own
    mean is taken off (a wrong threshold errs alike everywhere and is no bias by position). Under
    the null hypothesis that no place errs to one side, an image's map is as likely as its negative:
    signs are drawn for whole maps, so an image's errors may hang together as they like, and places
    where there is more to err, such as the middle, stay such places. p counts the drawn maps at
    least as spread out, the observed one among them.

    Args:
        errors, pixels: (N, cells * cells), sums of signed errors and of valid pixels.
        offset: (cells * cells,) logits, or None.
    """
    seen = pixels.sum(0)
    cells = round(len(seen) ** 0.5)
    share = np.divide(errors.sum(0), seen, out=np.zeros_like(seen), where=seen > 0)
    mean = errors.sum(1) / np.maximum(pixels.sum(1), 1)
    centred = (errors - mean[:, None] * pixels)[:, seen > 0] / seen[seen > 0]
    spread = float(centred.sum(0).std())
    generator = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            (generator.integers(0, 2, (len(rows), len(errors))) * 2 - 1) @ centred
            for rows in np.array_split(np.arange(permutations), 1 + permutations // 200)
        ]
    ).std(1)
    at_least = int((drawn >= spread * (1 - 1e-9)).sum())
    return SpatialBias(
        error=_rows(share, cells),
        offset=() if offset is None else _rows(offset, cells),
        p_value=(1 + at_least) / (1 + permutations),
        spread=spread,
        chance_spread=float(drawn.mean()),
    )


def _rows(values: NDArray[np.float64], cells: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.reshape(cells, cells).tolist())
