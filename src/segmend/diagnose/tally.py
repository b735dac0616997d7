"""What is kept of all images: a few integers an image, never a pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.look import Look
from segmend.diagnose.oracles.levels import Levels
from segmend.diagnose.oracles.thresholds import RATES
from segmend.diagnose.scoring import Counts, binary_counts


class Tally:
    """Rows of counts, one an image.

    Attributes:
        base: int64 (N, C, 3).
        rows: by key of a fix, (N, C, 3).
        ladders: by key of a fix with thresholds, (N, 2, rates, 2): [tp, fp], chosen and held out.
        histograms: (N, 2, levels) of binary maps.
        held_out: as rows, where thresholds were chosen on other pixels.
        confusion: (C, C), pooled; pairs: for each image the flat positions and numbers in it.
    """

    def __init__(self, num_images: int, num_classes: int, levels: Levels) -> None:
        self.num_images, self.num_classes, self.levels = num_images, num_classes, levels
        self.base: Counts = np.zeros((num_images, num_classes, 3), np.int64)
        self.rows: dict[str, NDArray[np.int32]] = {}
        self.held_out: dict[str, NDArray[np.int32]] = {}
        self.ladders: dict[str, NDArray[np.int32]] = {}
        self.histograms: NDArray[np.int32] | None = None
        self.confusion: Counts = np.zeros((num_classes, num_classes), np.int64)
        self.pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.areas: list[NDArray[np.int64]] = []
        self.recalls: list[NDArray[np.float64]] = []

    def add(self, index: int, look: Look) -> None:
        """Keep what image `index` contributes; images come in order."""
        self.base[index] = look.base
        for key, counts in look.mended.items():
            self._row(self.rows, key, counts.shape)[index] = counts
        for key, counts in look.held_out.items():
            self._row(self.held_out, key, counts.shape)[index] = counts
        for key, choice in look.choices.items():
            row = self._row(self.ladders, key, (2, len(RATES), 2))
            row[index] = np.stack((choice.counts, choice.held_out))
        if look.histogram is not None:
            if self.histograms is None:
                shape = (self.num_images, *look.histogram.shape)
                self.histograms = np.zeros(shape, np.int32)
            self.histograms[index] = look.histogram
        confusion = look.frame.confusion
        self.confusion += confusion
        at = np.flatnonzero(confusion)
        self.pairs.append((at, confusion.reshape(-1)[at]))
        self.areas.append(look.areas)
        self.recalls.append(look.recalls)

    def of_foreground(self, found: NDArray[np.integer]) -> Counts:
        """Counts (N, 2, 3) from [tp, fp] (N, 2) of a binary problem."""
        tp: Counts = found[:, 0].astype(np.int64)
        fp: Counts = found[:, 1].astype(np.int64)
        positives = self.base[:, 1, 0] + self.base[:, 1, 2]
        pixels = self.base[:, 1].sum(-1) + self.base[:, 0, 0]
        return binary_counts(tp, fp, positives, pixels)

    def _row(
        self, rows: dict[str, NDArray[np.int32]], key: str, shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        if key not in rows:
            rows[key] = np.zeros((self.num_images, *shape), np.int32)
        return rows[key]
