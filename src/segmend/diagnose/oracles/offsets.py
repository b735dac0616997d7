"""One offset a class, by coordinate ascent on a sample of pixels.

Each class in turn takes the offset with the best mean IoU while the others stand: found exactly on
a grid of offsets, by counting at which of them each pixel changes hands. No step lowers the score,
but the end may be a local best: a lower bound of what offsets can gain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.diagnose.frame import Array, Frame
from segmend.diagnose.scoring import Counts, score_of

GRID = np.arange(-24, 25) * 0.25
"""Logits that a class can be shifted by."""

SWEEPS = 2
_VALUES = 6_000_000  # of all images together: 24 MB
_SMALLEST = 1e-6


class OffsetSample:
    """Log-probabilities and truth of some pixels of each image, evenly spread."""

    def __init__(self, num_images: int, num_classes: int) -> None:
        self.each = int(np.clip(_VALUES // (num_images * num_classes), 16, 4096))
        self.num_images, self.num_classes = num_images, num_classes
        self.scores: list[NDArray[np.float32]] = []
        self.truth: list[Array] = []

    def add(self, index: int, case: Case, frame: Frame) -> None:
        """Image `index`, in order."""
        assert case.probs is not None
        step = max(1, frame.target.size // self.each)
        at = np.arange(index * 7919 % step, frame.target.size, step)
        if frame.valid is not None:
            at = at[frame.valid.reshape(-1)[at]]
        probs = case.probs.numpy().reshape(self.num_classes, -1)[:, at].T
        self.scores.append(np.log(np.maximum(probs, _SMALLEST)))
        self.truth.append(frame.target.reshape(-1)[at].astype(np.int64))

    def counts(self) -> tuple[Counts, Counts, Counts, tuple[float, ...]]:
        """(N, C, 3) on the sample: as it is, with the best offsets, and with those of other images;
        and the best offsets, that of the background 0.

        Of other images: even numbers take the offsets chosen on odd ones, and the reverse.
        """
        scores, truth = np.concatenate(self.scores), np.concatenate(self.truth)
        image = np.repeat(np.arange(self.num_images), [len(rows) for rows in self.truth])
        base = self._count(scores.argmax(1), truth, image)
        chosen = best_offsets(scores, truth)
        best = self._count((scores + chosen).argmax(1), truth, image)
        value = tuple((chosen - chosen[0]).tolist())  # adding the same to all changes nothing
        if self.num_images == 1:
            return base, best, base, value
        labels = np.empty_like(truth)
        for parity in (0, 1):
            mine = image % 2 == parity
            offsets = best_offsets(scores[~mine], truth[~mine])
            labels[mine] = (scores[mine] + offsets).argmax(1)
        return base, best, self._count(labels, truth, image), value

    def _count(self, labels: Array, truth: Array, image: Array) -> Counts:
        shape = (self.num_images, self.num_classes)
        size = shape[0] * shape[1]
        place = image * self.num_classes
        hit = labels == truth
        tp = np.bincount(place[hit] + truth[hit], minlength=size)
        predicted = np.bincount(place + labels, minlength=size)
        members = np.bincount(place + truth, minlength=size)
        found: Counts = np.stack((tp, predicted - tp, members - tp), axis=-1).reshape(*shape, 3)
        return found


def best_offsets(scores: Array, truth: Array) -> NDArray[np.float32]:
    """Offsets (C,) for logits `scores` (n, C). All classes take turns, the background first: its
    offset moves all others against it at once."""
    num_classes = scores.shape[1]
    offsets = np.zeros(num_classes, np.float32)
    members = np.bincount(truth, minlength=num_classes)
    for _ in range(SWEEPS):
        before = offsets.copy()
        for label in range(num_classes):
            others = scores + offsets
            others[:, label] = -np.inf
            rival = others.argmax(1)
            need = others[np.arange(len(rival)), rival] - scores[:, label]
            curve = _curve(need, rival, truth, members, label)
            best = np.flatnonzero(curve == curve.max())
            nearest = best[np.abs(GRID[best] - offsets[label]).argmin()]
            offsets[label] = GRID[nearest]
        if np.array_equal(before, offsets):
            break
    return offsets


def _curve(
    need: Array, rival: Array, truth: Array, members: NDArray[np.int64], label: int
) -> NDArray[np.float64]:
    """The mean IoU (len(GRID),) if `label` takes each offset: it wins the pixels that need less."""
    num_classes, bins = len(members), len(GRID) + 1
    step = np.searchsorted(GRID, need, side="right")
    lost = _by_class_and_step(rival, step, num_classes, bins)
    lost_hits = _by_class_and_step(rival[rival == truth], step[rival == truth], num_classes, bins)
    # Before its step a pixel is its rival's.
    predicted = lost[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    tp = lost_hits[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    won = np.bincount(step, minlength=bins)[:-1]
    won_hits = np.bincount(step[truth == label], minlength=bins)[:-1]
    predicted[label], tp[label] = won.cumsum(), won_hits.cumsum()
    counts: Counts = np.stack((tp, predicted - tp, members[:, None] - tp), axis=-1)
    return np.nan_to_num(score_of(counts.swapaxes(0, 1)), nan=0.0)


def _by_class_and_step(label: Array, step: Array, num_classes: int, bins: int) -> Counts:
    found = np.bincount(label * bins + step, minlength=num_classes * bins)
    return found.reshape(num_classes, bins)
