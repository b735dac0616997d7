"""Scores as a few hundred levels, so that every threshold is a cut between two of them.

Levels are the 256 values of an 8-bit map and, between 0 and its first and between its last and 1,
steps of a quarter of an octave: thresholds of 8-bit maps are exact, of finer maps a grid of them,
dense where a saturated model's scores are. One more level is inserted at the base's own threshold,
so that the base is always one of the cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from segmend.diagnose.frame import Array

_TOP = 65535
_STEP = 257  # codes of 16 bits a value of 8 bits
_SMALLEST = 5e-6  # below the first code: a threshold of 0 as a finite logit


@dataclass(frozen=True)
class Levels:
    """Levels 0 .. count - 1; cut j calls `level >= j` foreground, 0 <= j <= count.

    Attributes:
        base: the cut that is the base's threshold.
        logits: float64 (count + 1,), the threshold of each cut as a logit, -inf, ..., inf.
    """

    threshold: float
    base: int
    count: int
    logits: NDArray[np.float64]

    def of(self, scores: Array, foreground: Array) -> NDArray[np.int32]:
        """Levels of float `scores` in [0, 1] whose base mask is `foreground`, any shape.

        `foreground` wins where the two disagree: the base is what was predicted.
        """
        codes = (scores * np.float32(_TOP) + np.float32(0.5)).astype(np.uint16)
        levels = _table()[0].take(codes)
        last = self.base - 1
        return np.where(foreground, np.maximum(levels, last) + 1, np.minimum(levels, last))

    def threshold_of(self, cut: int) -> float:
        """The threshold in [0, 1] of a cut; the base's own exactly."""
        return self.threshold if cut == self.base else float(expit(self.logits[cut]))


def levels_for(threshold: float) -> Levels:
    """Levels about a base `threshold` in [0, 1)."""
    table, upper = _table()
    base = int(table[int(threshold * _TOP + 0.5)]) + 1
    # Level base - 1 of the table is split in two at the threshold.
    edges = np.insert(upper, base - 1, threshold)
    inner = edges[:-1].clip(_SMALLEST, 1 - _SMALLEST)
    logits = np.concatenate(([-np.inf], np.log(inner) - np.log1p(-inner), [np.inf]))
    return Levels(threshold, base, len(edges), logits)


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Level of each 16-bit code (65536,), and the upper edge of each level in probability."""
    codes = np.arange(1, _STEP // 2 + 1)
    tail = np.concatenate(([0], 1 + np.floor(4 * np.log2(codes)).astype(np.int64)))
    tail = np.unique(tail, return_inverse=True)[1]
    middle = np.rint(np.arange(len(tail), _TOP + 1 - len(tail)) / _STEP) + tail[-1]
    top = middle[-1] + 1 + (tail[-1] - tail[::-1])
    table = np.concatenate((tail, middle, top)).astype(np.int32)
    ends = np.flatnonzero(np.diff(table, append=table[-1] + 1))
    upper = np.minimum((ends + 0.5) / _TOP, 1.0)
    return table, upper
