"""How far a pixel lies from the true outlines, counted in steps between neighbouring pixels.

Claim: the pixels that `outline_steps` gives w or less are exactly those with a pixel of another
label at most w steps (city block) away. Proof: along a shortest path to such a pixel the label
changes between two neighbours, the first of which is at most w - 1 steps away, and lies on an
outline: w - 1 growings from the outlines reach back. Conversely a pixel at most w - 1 steps from
an outline pixel is at most w steps from both sides of that outline, and one of them differs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.frame import Array, Frame


def outline_steps(labels: Array, width: int) -> NDArray[np.uint8]:
    """Steps from each pixel to the nearest pixel of another label: 1 .. width, 0 if farther.

    Args:
        labels: (H, W) or (H, W, D).
        width: at most 254.
    """
    near = np.zeros(labels.shape, dtype=bool)
    for low, high in _neighbours(labels.ndim):
        differ = labels[low] != labels[high]
        near[low] |= differ
        near[high] |= differ
    reached = near.astype(np.uint8)
    for _ in range(width - 1):
        grown = near.copy()
        for low, high in _neighbours(labels.ndim):
            grown[low] |= near[high]
            grown[high] |= near[low]
        near = grown
        reached += near
    return np.where(reached, width + 1 - reached, 0).astype(np.uint8)


def steps_of(frame: Frame, width: int) -> NDArray[np.uint8]:
    """`outline_steps` of the truth. An ignored region is a label of its own: in VOC and its kin
    the ring of ignored pixels is the outline."""
    labels = frame.target
    if frame.valid is not None:
        labels = np.where(frame.valid, labels, frame.num_classes).astype(labels.dtype)
    return outline_steps(labels, width)


def _neighbours(dimensions: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For each axis the slices that lay every pixel beside the next one."""
    pairs = []
    for axis in range(dimensions):
        before = (slice(None),) * axis
        pairs.append(((*before, slice(None, -1)), (*before, slice(1, None))))
    return pairs
