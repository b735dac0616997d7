"""Which images are the worst, overall and by each kind of error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segmend.diagnose.result import Diagnosis, Family, Fix, ImageRow


@dataclass(frozen=True)
class Pick:
    """An image for the gallery: its position in `Diagnosis.images`, and what it is an example of.

    overall: it is among the worst by score. kinds: families whose worst images hold it, with the
    gain of the best fix of the family on it.
    """

    position: int
    overall: bool
    kinds: dict[Family, float]


def main_fix(row: ImageRow, fixes: Sequence[Fix]) -> int | None:
    """Index of the fix that would gain most on this image; None where none gains.

    What a fix wins by its freedom alone (`Fix.chance`) is taken off first: otherwise the one with
    the smallest patches would win on every image.
    """
    best, place = 0.0, None
    for index, fix in enumerate(fixes):
        value = row.gains.get(fix.key, 0.0) - (fix.chance or 0.0)
        if value > best:
            best, place = value, index
    return place


def family_gain(row: ImageRow, fixes: Sequence[Fix], family: Family) -> float:
    """The largest gain over chance among the fixes of a family on this image; at least 0."""
    gains = [
        row.gains.get(fix.key, 0.0) - (fix.chance or 0.0) for fix in fixes if fix.family == family
    ]
    return max([0.0, *(gain for gain in gains if math.isfinite(gain))])


def families_of(diagnosis: Diagnosis) -> list[Family]:
    """Kinds of error in this diagnosis, the one that could gain most first."""
    best: dict[Family, float] = {}
    for fix in diagnosis.fixes:
        best[fix.family] = max(best.get(fix.family, -1.0), fix.gain - (fix.chance or 0.0))
    return sorted(best, key=lambda family: -best[family])


def worst_images(diagnosis: Diagnosis, count: int) -> list[Pick]:
    """At most `count` images: the worst by score, and in turn the worst of each kind of error.

    The lists are walked side by side, so that each kind is represented; the result is in order of
    score, worst first. An image without a score (nothing to find, nothing found) has no error.
    """
    images = diagnosis.images
    by_score = [i for i, row in enumerate(images) if math.isfinite(row.score)]
    by_score.sort(key=lambda i: images[i].score)
    orders: dict[Family | None, list[int]] = {None: by_score[:count]}
    gains: dict[Family, list[float]] = {}
    for family in families_of(diagnosis):
        values = [family_gain(row, diagnosis.fixes, family) for row in images]
        orders[family] = sorted(
            (i for i, value in enumerate(values) if value > 0), key=lambda i: -values[i]
        )[:count]
        gains[family] = values
    chosen: dict[int, Pick] = {}
    for depth in range(count):
        for kind, order in orders.items():
            if depth >= len(order):
                continue
            position = order[depth]
            if position not in chosen and len(chosen) >= count:
                continue
            pick = chosen.setdefault(position, Pick(position, False, {}))
            if kind is None:
                chosen[position] = Pick(position, True, pick.kinds)
            else:
                pick.kinds[kind] = gains[kind][position]
    return sorted(chosen.values(), key=lambda pick: _rank(images[pick.position].score))


def _rank(score: float) -> float:
    return score if math.isfinite(score) else math.inf
