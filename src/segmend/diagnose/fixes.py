"""From the tally to fixes: gains, intervals, and what chance would have won."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.oracles.classes import confused
from segmend.diagnose.result import Fix
from segmend.diagnose.scoring import (
    Counts,
    balanced,
    gain_of,
    pooled_score,
    score_of,
)
from segmend.diagnose.tally import Tally
from segmend.diagnose.texts import text_of

FOLDS = 5
"""Groups of images that take turns in being left out."""


@dataclass(frozen=True)
class Mended:
    """Counts before and after one fix.

    Attributes:
        base, counts: (N, C, 3), or (groups, C, 3) where images are not kept apart.
        chance: what the fix would gain on unsystematic errors; None where that is 0 by nature.
        value: as of `Fix`.
    """

    key: str
    base: Counts
    counts: Counts
    chance: float | None = None
    value: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A fix with its gain on each image (N,), None where images are not kept apart."""

    fix: Fix
    images: NDArray[np.float64] | None


def measured(
    mended: Mended, options: DiagnoseOptions, classes: tuple[str, ...], *, num_images: int
) -> Measured:
    """The fix in words and numbers."""
    seed, num_resamples = options.seed, options.num_resamples
    gain = gain_of(mended.base, mended.counts, num_resamples=num_resamples, seed=seed)
    text = text_of(mended.key, classes)
    fix = Fix(
        key=mended.key,
        title=text.title,
        family=text.family,
        addon=text.addon,
        gain=gain.pooled,
        low=gain.low,
        high=gain.high,
        per_image_gain=float(gain.images.mean()),
        chance=mended.chance,
        explanation=text.explanation,
        value=mended.value,
        affected=changed_share(mended) if mended.key == "candidates" else None,
    )
    return Measured(fix, gain.images if len(gain.images) == num_images else None)


def changed_share(mended: Mended) -> float:
    """Share of all pixels that get another class, where no class of an image both loses and wins.

    So it is with candidates: the others lose all their pixels to them.
    """
    before, after = (counts[..., :2].sum(-1) for counts in (mended.base, mended.counts))
    pixels = int(mended.base[..., ::2].sum())  # true positives and false negatives: each pixel once
    return float(np.maximum(before - after, 0).sum() / max(1, pixels))


def mended_by_tally(tally: Tally, options: DiagnoseOptions) -> Iterator[Mended]:
    """What the rows of counts hold, thresholds first."""
    base = tally.base
    if tally.histograms is not None:
        yield _global_threshold(tally)
    for key, ladder in tally.ladders.items():
        yield _from_ladder(tally, key, ladder)
    for key, rows in tally.rows.items():
        counts = rows.astype(np.int64)
        if key in tally.held_out:
            yield _no_worse(key, base, counts, tally.held_out[key].astype(np.int64))
        elif key.startswith("boundary"):
            chance = pooled_score(balanced(base, counts)) - pooled_score(base)
            yield Mended(key, base, counts, chance)
        else:
            yield Mended(key, base, counts)
    if tally.num_classes > 2:
        yield from _confusions(tally, options)


def _no_worse(key: str, base: Counts, counts: Counts, held_out: Counts) -> Mended:
    """The choice, or the base where that is better: leaving all as it is can be chosen, too."""
    if pooled_score(counts) <= pooled_score(base):
        return Mended(key, base, base, 0.0)
    return Mended(key, base, counts, pooled_score(counts) - pooled_score(held_out))


def _from_ladder(tally: Tally, key: str, ladder: NDArray[np.int32]) -> Mended:
    """The rung with the best pooled IoU; the base where none is better."""
    positives = int((tally.base[:, 1, 0] + tally.base[:, 1, 2]).sum())
    pooled = ladder.sum(0, dtype=np.int64)
    scores = pooled[0, :, 0] / np.maximum(positives + pooled[0, :, 1], 1)
    rung = int(scores.argmax())
    counts = tally.of_foreground(ladder[:, 0, rung])
    return _no_worse(key, tally.base, counts, tally.of_foreground(ladder[:, 1, rung]))


def _global_threshold(tally: Tally) -> Mended:
    """The best cut of the pooled histogram, and what is lost if other images choose it."""
    assert tally.histograms is not None
    above = _above(tally.histograms)
    whole = above.sum(0)
    cut = best_cut(whole, tally.levels.base)
    counts = tally.of_foreground(above[:, cut])
    group = np.arange(tally.num_images) % min(FOLDS, tally.num_images)
    held_out = np.zeros_like(above[:, 0])
    for fold in np.unique(group):
        rest = whole - above[group == fold].sum(0)
        held_out[group == fold] = above[group == fold, best_cut(rest, tally.levels.base)]
    mended = _no_worse("threshold-global", tally.base, counts, tally.of_foreground(held_out))
    return replace(mended, value=(tally.levels.threshold_of(cut),))


def _above(histograms: NDArray[np.int32]) -> Counts:
    """[tp, fp] (..., levels + 1, 2) of each cut, from (..., 2, levels)."""
    sums = histograms[..., ::-1].cumsum(-1, dtype=np.int64)[..., ::-1]
    padded = np.concatenate((sums, np.zeros_like(sums[..., :1])), axis=-1)
    return np.ascontiguousarray(np.moveaxis(padded[..., ::-1, :], -2, -1))


def best_cut(above: Counts, base: int) -> int:
    """Of [tp, fp] (cuts, 2) the cut with the best IoU; of several the one nearest to `base`."""
    positives = above[0, 0]
    scores = above[:, 0] / np.maximum(positives + above[:, 1], 1)
    best = np.flatnonzero(scores == scores.max())
    return int(best[np.abs(best - base).argmin()])


def _confusions(tally: Tally, options: DiagnoseOptions) -> Iterator[Mended]:
    """All classes told apart (background aside), then the pairs that gain most by it."""
    first = 1 if options.background else 0
    labels = range(first, tally.num_classes)
    everything = [(a, b) for a in labels for b in labels if a != b]
    yield Mended("confusion", tally.base, confused(tally.pairs, tally.base, everything))
    pooled = tally.base.sum(0)[None]
    whole = [(np.arange(tally.confusion.size), tally.confusion.reshape(-1))]
    gains = {}
    for a, b in combinations(labels, 2):
        if tally.confusion[a, b] + tally.confusion[b, a]:
            mended = confused(whole, pooled, [(a, b), (b, a)])
            gains[a, b] = float(score_of(mended.sum(0)) - score_of(pooled.sum(0)))
    for a, b in sorted(gains, key=lambda pair: -gains[pair])[: options.pairs]:
        counts = confused(tally.pairs, tally.base, [(a, b), (b, a)])
        yield Mended(f"confusion-{a}-{b}", tally.base, counts)
