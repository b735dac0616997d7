"""Brute force over all thresholds, in loops and fractions; shares no code with the library."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np


def patches_of(height, width, side):
    """(row, column) and window of every patch; border patches are smaller."""
    tall, wide = side if isinstance(side, tuple) else (side, side)
    for r, top in enumerate(range(0, height, tall)):
        for c, left in enumerate(range(0, width, wide)):
            yield (r, c), (slice(top, top + tall), slice(left, left + wide))


def ratio(hits, union, epsilon):
    if union + epsilon == 0:
        return Fraction(1)
    return Fraction(hits + epsilon, union + epsilon)


class Cut:
    """A mask that some threshold makes of one patch, with its counts over the valid pixels."""

    def __init__(self, scores, target, ignore, threshold, base):
        self.mask = np.array([[s > threshold for s in row] for row in scores.tolist()])
        self.hits = self.false = self.positives = self.size = self.changes = self.valid = 0
        for s, t in zip(scores.ravel().tolist(), target.ravel().tolist(), strict=True):
            if t == ignore:
                continue
            chosen = s > threshold
            self.valid += 1
            self.size += chosen
            self.hits += chosen and t == 1
            self.false += chosen and t == 0
            self.positives += t == 1
            self.changes += chosen != (s > base)

    def order(self, ties):
        """The cut with the smallest of these wins among equally good ones."""
        return {
            "smallest": (self.size,),
            "largest": (-self.size,),
            "nearest": (self.changes, -self.size),
        }[ties]


def cuts_of(scores, target, ignore, base):
    valid = sorted(
        {
            s
            for s, t in zip(scores.ravel().tolist(), target.ravel().tolist(), strict=True)
            if t != ignore
        }
    )
    return [Cut(scores, target, ignore, v, base) for v in (-math.inf, *valid)]


def best_patch_cuts(scores, target, side, *, epsilon, ties, ignore=255, base=0.5):
    """{(row, column): best cut} of one image, None where no pixel is valid."""
    best = {}
    for where, window in patches_of(*scores.shape, side):
        cuts = cuts_of(scores[window], target[window], ignore, base)
        best[where] = min(
            cuts,
            key=lambda cut: (
                -ratio(cut.hits, cut.positives + cut.false, epsilon),
                cut.order(ties),
            ),
        )
        if best[where].valid == 0:
            best[where] = None
    return best


def best_image_cuts(scores, target, side, *, epsilon, ties, ignore=255, base=0.5):
    """The same for the IoU of the image: all combinations of the cuts of its patches."""
    where, every = [], []
    for place, window in patches_of(*scores.shape, side):
        where.append(place)
        # Masks, not thresholds: of those that give the same mask, one.
        every.append(cuts_of(scores[window], target[window], ignore, base))

    def quality(cuts):
        hits, false = sum(c.hits for c in cuts), sum(c.false for c in cuts)
        orders = zip(*(c.order(ties) for c in cuts), strict=True)
        iou = ratio(hits, sum(c.positives for c in cuts) + false, epsilon)
        return -iou, tuple(sum(order) for order in orders)

    best = min(itertools.product(*every), key=quality)
    return {p: c if c.valid else None for p, c in zip(where, best, strict=True)}
