"""Calibration on a sample of pixels: is a class as frequent as its probability says?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.diagnose.frame import Array, Frame
from segmend.diagnose.result import ReliabilityCurve

BINS = 15
PIXELS = 16384
"""Pixels of an image that are looked at, evenly spread; fewer where there are many classes."""


class Reliability:
    """Sums by class, near or far from an outline, and bin: (C, 2, BINS, 3) with number, sum of
    probabilities, and hits. A binary problem has one row, the foreground's."""

    def __init__(self, num_classes: int) -> None:
        rows = 1 if num_classes == 2 else num_classes
        self.sums = np.zeros((rows, 2, BINS, 3))

    def add(self, index: int, case: Case, frame: Frame, steps: Array) -> None:
        """Image `index`; `steps` are 0 far from the true outlines."""
        assert case.probs is not None
        rows = len(self.sums)
        step = max(1, frame.target.size * rows // (PIXELS * min(rows, 4)))
        at = np.arange(index * 7919 % step, frame.target.size, step)
        if frame.valid is not None:
            at = at[frame.valid.reshape(-1)[at]]
        truth = frame.target.reshape(-1)[at]
        near = (steps.reshape(-1)[at] > 0).astype(np.int64)
        scores = case.probs.numpy().reshape(rows, -1)[:, at]
        labels = np.arange(rows) if rows > 1 else np.array([1])
        hits = truth == labels[:, None]
        bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
        key = ((np.arange(rows)[:, None] * 2 + near) * BINS + bins).reshape(-1)
        for position, weights in enumerate((None, scores.reshape(-1), hits.reshape(-1))):
            found = np.bincount(key, weights, minlength=rows * 2 * BINS)
            self.sums[..., position] += found.reshape(rows, 2, BINS)

    def curves(self, classes: Sequence[str]) -> tuple[ReliabilityCurve, ...]:
        """Of each class that is there: all pixels, near an outline, far from one."""
        labels = classes[1:] if len(self.sums) == 1 else classes
        found = []
        for label, sums in zip(labels, self.sums, strict=True):
            if not sums[..., 2].any():
                continue
            kinds: tuple[tuple[bool | None, NDArray[np.float64]], ...] = (
                (None, sums.sum(0)),
                (True, sums[1]),
                (False, sums[0]),
            )
            found += [_curve(label, near, part) for near, part in kinds if part[:, 0].any()]
        return tuple(found)


def _curve(label: str, near: bool | None, sums: NDArray[np.float64]) -> ReliabilityCurve:
    number, score, hits = sums[sums[:, 0] > 0].T
    return ReliabilityCurve(
        label=label,
        near_boundary=near,
        confidence=tuple((score / number).tolist()),
        frequency=tuple((hits / number).tolist()),
        count=tuple(int(n) for n in number),
        error=float(np.abs(score - hits).sum() / number.sum()),
    )
