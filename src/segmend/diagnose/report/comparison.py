"""Two diagnoses of the same images side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from segmend.diagnose.result import Diagnosis, Fix, Score
from segmend.errors import SegmendError
from segmend.metrics.paired import Interval, paired_bootstrap


@dataclass(frozen=True)
class Comparison:
    """This diagnosis and another: scores, the paired difference per image, and each fix's gain.

    difference: other minus this one, of the mean score per image over the images that both have a
    score for, with its 95% interval; None with fewer than two. fixes: those that both have.
    """

    source: str
    score: Score
    difference: Interval | None
    fixes: tuple[tuple[Fix, Fix], ...]
    better: int
    worse: int


def compare(base: Diagnosis, other: Diagnosis) -> Comparison:
    """Compare two diagnoses image by image; images are told apart by name.

    Raises:
        SegmendError: the two look at other images, or score otherwise.
    """
    if base.setting.measure != other.setting.measure:
        raise SegmendError(
            f"compared diagnoses: one scores {base.setting.measure}, the other "
            f"{other.setting.measure}; want the same number of classes"
        )
    theirs = {row.name: row.score for row in other.images}
    missing = [row.name for row in base.images if row.name not in theirs]
    if missing or len(theirs) != len(base.images):
        hint = f"; {missing[0]!r} is not in the other" if missing else ""
        raise SegmendError(
            f"compared diagnoses: want the same images, got {len(base.images)} and "
            f"{len(other.images)}{hint}"
        )
    pairs = [(row.score, theirs[row.name]) for row in base.images]
    pairs = [pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]
    known = {fix.key: fix for fix in other.fixes}
    return Comparison(
        source=other.setting.source,
        score=other.score,
        difference=_difference(pairs),
        fixes=tuple(
            (fix, known[fix.key])
            for fix in sorted(base.fixes, key=lambda fix: -fix.gain)
            if fix.key in known
        ),
        better=sum(after > before for before, after in pairs),
        worse=sum(after < before for before, after in pairs),
    )


def _difference(pairs: list[tuple[float, float]]) -> Interval | None:
    if len(pairs) < 2:
        return None
    rows = torch.tensor(pairs, dtype=torch.float64)
    ones = torch.ones(len(rows), 1, dtype=torch.float64)
    before, after = (torch.cat([rows[:, i : i + 1], ones], 1) for i in (0, 1))
    return paired_bootstrap(before, after, statistic=lambda sums: sums[..., 0] / sums[..., 1])
