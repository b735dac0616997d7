"""From the tally to fixes: gains, intervals, and what chance would have won."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.result import Fix
from segmend.diagnose.scoring import (
    Counts,
    Gain,
    balanced,
    gain_of,
    pooled_score,
)
from segmend.diagnose.tally import Tally
from segmend.diagnose.texts import text_of

FOLDS = 5
"""Groups of images that take turns in being left out."""


@dataclass(frozen=True)
class Measured:
    """A fix with its gain on each image (N,)."""

    fix: Fix
    images: NDArray[np.float64]


def measured_fixes(
    tally: Tally, options: DiagnoseOptions, classes: tuple[str, ...]
) -> list[Measured]:
    """All fixes, in the order of `_mended`."""
    base = pooled_score(tally.base)
    found = []
    for key, counts, chance in _mended(tally):
        gain = gain_of(tally.base, counts, num_resamples=options.num_resamples, seed=options.seed)
        found.append(measured(key, gain, classes, None if chance is None else chance - base))
    return found


def measured(key: str, gain: Gain, classes: tuple[str, ...], chance: float | None) -> Measured:
    text = text_of(key, classes)
    mean = float(gain.images.mean()) if len(gain.images) else float("nan")
    fix = Fix(
        key=key,
        title=text.title,
        family=text.family,
        addon=text.addon,
        gain=gain.pooled,
        low=gain.low,
        high=gain.high,
        per_image_gain=mean,
        chance=chance,
        explanation=text.explanation,
    )
    return Measured(fix, gain.images)


def _mended(tally: Tally) -> Iterator[tuple[str, Counts, float | None]]:
    """Key, counts (N, C, 3), and the score that chance alone would reach."""
    if tally.histograms is not None:
        yield _global_threshold(tally)
    for key, ladder in tally.ladders.items():
        yield _from_ladder(tally, key, ladder)
    for key, rows in tally.rows.items():
        counts = rows.astype(np.int64)
        outline = key.startswith("boundary")
        chance = pooled_score(balanced(tally.base, counts)) if outline else None
        yield key, counts, chance


def _from_ladder(
    tally: Tally, key: str, ladder: NDArray[np.int32]
) -> tuple[str, Counts, float | None]:
    """The rung with the best pooled IoU; the base where none is better."""
    positives = int((tally.base[:, 1, 0] + tally.base[:, 1, 2]).sum())
    pooled = ladder.sum(0, dtype=np.int64)
    scores = pooled[0, :, 0] / np.maximum(positives + pooled[0, :, 1], 1)
    rung = int(scores.argmax())
    counts = tally.of_foreground(ladder[:, 0, rung])
    if pooled_score(counts) <= pooled_score(tally.base):
        return key, tally.base, pooled_score(tally.base)
    held_out = tally.of_foreground(ladder[:, 1, rung])
    lost = pooled_score(counts) - pooled_score(held_out)
    return key, counts, pooled_score(tally.base) + lost


def _global_threshold(tally: Tally) -> tuple[str, Counts, float]:
    """The best cut of the pooled histogram, and what is lost if other images choose it."""
    assert tally.histograms is not None
    above = _above(tally.histograms)
    whole = above.sum(0)
    counts = tally.of_foreground(above[:, best_cut(whole, tally.levels.base)])
    group = np.arange(tally.num_images) % min(FOLDS, tally.num_images)
    held_out = np.zeros_like(above[:, 0])
    for fold in np.unique(group):
        rest = whole - above[group == fold].sum(0)
        held_out[group == fold] = above[group == fold, best_cut(rest, tally.levels.base)]
    lost = pooled_score(counts) - pooled_score(tally.of_foreground(held_out))
    return "threshold-global", counts, pooled_score(tally.base) + lost


def _above(histograms: NDArray[np.int32]) -> Counts:
    """[tp, fp] (..., levels + 1, 2) of each cut."""
    sums = histograms[..., ::-1].cumsum(-1, dtype=np.int64)[..., ::-1]
    padded = np.concatenate((sums, np.zeros_like(sums[..., :1])), axis=-1)
    return np.ascontiguousarray(np.moveaxis(padded[..., ::-1, :], -2, -1))


def best_cut(above: Counts, base: int) -> int:
    """Of [tp, fp] (cuts, 2) the cut with the best IoU; of several the one nearest to `base`."""
    positives = above[0, 0]
    union = np.maximum(positives + above[:, 1], 1)
    scores = above[:, 0] / union
    best = np.flatnonzero(scores == scores.max())
    return int(best[np.abs(best - base).argmin()])
