"""Where in the frame errors lie: sums on a grid that all frames are scaled to."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.frame import Array, Frame
from segmend.diagnose.oracles.levels import Levels

STEP = 0.25
"""Logits between two offsets that a cell can choose from."""

_CELLS_KEPT = 3_000_000  # of the histograms: 24 MB


def signed_errors(frame: Frame, cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(cells * cells,) sums of foreground predicted minus foreground true, and valid pixels."""
    error = (frame.prediction != 0).astype(np.float32) - (frame.target != 0)
    valid = np.ones(error.shape, np.float32) if frame.valid is None else frame.valid
    return _sums(error, cells), _sums(valid.astype(np.float32), cells)


def _sums(values: Array, cells: int) -> NDArray[np.float64]:
    if values.ndim == 3:
        values = values.sum(-1)
    rows, columns = (_membership(side, cells) for side in values.shape)
    return (rows @ values @ columns.T).astype(np.float64).reshape(-1)


@lru_cache(maxsize=16)
def _membership(side: int, cells: int) -> NDArray[np.float32]:
    """(cells, side): whether a pixel of a row or column lies in a cell."""
    of = np.arange(side) * cells // side
    members: NDArray[np.float32] = (of == np.arange(cells)[:, None]).astype(np.float32)
    return members


@lru_cache(maxsize=4)
def cell_places(shape: tuple[int, ...], cells: int) -> NDArray[np.int64]:
    """The cell of each pixel, row by row; all of a volume's slices share one grid."""
    row = np.arange(shape[0]) * cells // shape[0]
    column = np.arange(shape[1]) * cells // shape[1]
    places = row[:, None] * cells + column
    return places if len(shape) == 2 else np.repeat(places[:, :, None], shape[2], axis=2)


class PlaceTable:
    """Pixels by group of images, cell, best class, truth and logit.

    Attributes:
        histogram: int64 (groups, cells, C - 1, 3, bins): of the pixels whose best class besides
            background is c, those of the background, of c, and of other classes.
        base: the first bin that is foreground at the base's threshold; a cut at bin j calls all
            bins from j on foreground.
    """

    def __init__(self, num_images: int, num_classes: int, cells: int, levels: Levels) -> None:
        # A threshold's logit goes to a bin of STEP; the base's lies between two of them.
        ends = levels.logits[1:-1] - levels.logits[levels.base]
        upper = np.concatenate((ends, ends[-1:] + STEP))
        bins = np.ceil(upper / STEP - 1e-9).astype(np.int64) - 1
        self.low = int(bins.min())
        self.table = bins - self.low
        self.base = -self.low
        count = int(self.table.max()) + 1
        size = cells * cells * (num_classes - 1) * 3 * count
        self.groups = int(min(num_images, 32, max(2, _CELLS_KEPT // size)))
        shape = (self.groups, cells * cells, num_classes - 1, 3, count)
        self.histogram = np.zeros(shape, np.int64)
        self.cells = cells

    def offsets(self) -> NDArray[np.float64]:
        """Logits that a cut at each bin 0 .. bins adds to the foreground."""
        cuts = np.arange(self.histogram.shape[-1] + 1, dtype=np.float64)
        return STEP * (self.base - cuts)

    def add(self, index: int, frame: Frame, level: Array, leader: Array) -> None:
        """Image `index`: levels as from `Levels.of`, best classes besides the background."""
        count = self.histogram.shape[-1]
        places = cell_places(frame.target.shape, self.cells)
        if frame.num_classes == 2:
            rows = places * 3 + frame.target
        else:
            kind = np.where(frame.target == leader, 1, np.where(frame.target == 0, 0, 2))
            rows = (places * self.histogram.shape[2] + (leader - 1)) * 3 + kind
        key = rows * count + self.table.take(level)
        flat = key.reshape(-1) if frame.valid is None else key[frame.valid]
        group = self.histogram[index % self.groups]
        group += np.bincount(flat, minlength=group.size).reshape(group.shape)
