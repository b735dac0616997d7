"""How well objects are found, by their size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.result import SizeBin

BINS = 5


def size_bins(
    areas: NDArray[np.int64], recalls: NDArray[np.float64], *, bins: int = BINS
) -> tuple[SizeBin, ...]:
    """Objects in groups of about equal number by area; equal areas stay together.

    Args:
        areas: pixels of each object. recalls: the share of each that was found.
    """
    if not len(areas):
        return ()
    # Inner limits: a bin holds areas above its lower and up to its upper limit.
    inner = np.unique(np.quantile(areas, np.arange(1, bins) / bins, method="lower"))
    group = np.searchsorted(inner, areas, side="left")
    found = []
    for number in np.unique(group):
        mine = group == number
        found.append(
            SizeBin(
                smallest=int(areas[mine].min()),
                largest=int(areas[mine].max()),
                objects=int(mine.sum()),
                recall=float(recalls[mine].mean()),
                detected=float((recalls[mine] >= 0.5).mean()),
            )
        )
    return tuple(found)
