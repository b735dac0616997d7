"""Errors by shape: false islands, over-segmentation, missed objects, holes.

Foreground is every class but 0. An object is a connected set of pixels of one class, diagonal
neighbours included; a hole is enclosed if no path of edge neighbours leads out of it. Every
mended pixel takes its true label, so that these four are exact whatever else is wrong, and no
gain is ever negative. Islands, spill and the outline bands share no pixel but in this: an island
may touch the band of an object that it does not touch itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segmend.diagnose.frame import Array, Frame


@dataclass(frozen=True)
class Shapes:
    """Which wrong pixels belong to which error: bool arrays, one entry a wrong pixel.

    areas: pixels of each object of the truth. recalls: share of each that has its class.
    """

    islands: Array
    spill: Array
    missed: Array
    holes: Array
    areas: NDArray[np.int64]
    recalls: NDArray[np.float64]


def find_shapes(frame: Frame, beyond: Array, *, missed_share: float) -> Shapes:
    """Sort the wrong pixels of `frame` by shape.

    Args:
        beyond: bool, one entry a wrong pixel: farther from the true outlines than the widest band.
        missed_share: an object is missed where at most this share of it is foreground.
    """
    places = np.unravel_index(frame.wrong, frame.target.shape)
    islands = np.zeros(len(frame.wrong), dtype=bool)
    leaked = (frame.wrong_target == 0) & (frame.wrong_prediction != 0)
    for label in np.unique(frame.wrong_prediction[leaked]):
        at = np.flatnonzero(leaked & (frame.wrong_prediction == label))
        islands[at] = _on_islands(frame, label, [axis[at] for axis in places])
    missed = np.zeros_like(islands)
    areas, recalls = [np.zeros(0, np.int64)], [np.zeros(0)]
    for label in range(1, len(frame.confusion)):
        if not frame.confusion[label].any():
            continue
        at = np.flatnonzero(frame.wrong_target == label)
        found = _objects(frame, label, [axis[at] for axis in places], missed_share)
        missed[at] = found[0]
        areas.append(found[1])
        recalls.append(found[2])
    holes = _in_holes(frame, places)
    spill = leaked & ~islands & beyond
    return Shapes(islands, spill, missed, holes, np.concatenate(areas), np.concatenate(recalls))


def _on_islands(frame: Frame, label: int, places: list[Array]) -> Array:
    """For pixels at `places` predicted as `label`: whether their component meets no foreground."""
    mask = frame.prediction == label
    if frame.valid is not None:
        mask &= frame.valid
    box = _box(mask)
    components, count = _components(mask[box])
    on_object = (frame.target[box] != 0) & mask[box]
    meets = np.zeros(count + 1, dtype=bool)
    meets[components[on_object]] = True
    island: Array = ~meets[_look_up(components, places, box)]
    return island


def _objects(
    frame: Frame, label: int, places: list[Array], missed_share: float
) -> tuple[Array, NDArray[np.int64], NDArray[np.float64]]:
    """Whether the pixels at `places` lie on a missed object; area and recall of each object."""
    mask = frame.target == label
    box = _box(mask)
    components, count = _components(mask[box])
    inside = np.flatnonzero(components)
    number = components.reshape(-1).take(inside)
    predicted = np.ascontiguousarray(frame.prediction[box]).reshape(-1).take(inside)
    area, called, right = (
        np.bincount(part, minlength=count + 1)[1:]
        for part in (number, number[predicted != 0], number[predicted == label])
    )
    missed = np.concatenate(([False], called <= missed_share * area))
    return missed[_look_up(components, places, box)], area, right / area


def _in_holes(frame: Frame, places: tuple[Array, ...]) -> Array:
    """Whether a wrong pixel is foreground in the truth and in a hole of the prediction."""
    lost = (frame.wrong_target != 0) & (frame.wrong_prediction == 0)
    inside = np.zeros(len(frame.wrong), dtype=bool)
    predicted = frame.prediction != 0
    if not lost.any() or not predicted.any():
        return inside
    box = _box(predicted)  # what is enclosed is enclosed within it
    components, count = ndimage.label(~predicted[box])
    enclosed = np.ones(count + 1, dtype=bool)
    for axis in range(components.ndim):
        for end in (0, -1):
            enclosed[np.take(components, end, axis=axis)] = False
    within = lost.copy()
    for place, side in zip(places, box, strict=True):
        within &= (place >= side.start) & (place < side.stop)
    at = np.flatnonzero(within)
    inside[at] = enclosed[_look_up(components, [axis[at] for axis in places], box)]
    return inside


def _components(mask: Array) -> tuple[Array, int]:
    """Connected pixels, diagonals included: numbers from 1, and how many."""
    numbers, count = ndimage.label(mask, np.ones((3,) * mask.ndim, dtype=bool))
    return numbers, count


def _look_up(components: Array, places: list[Array], box: tuple[slice, ...]) -> Array:
    moved = tuple(axis - side.start for axis, side in zip(places, box, strict=True))
    found: Array = components[moved]
    return found


def _box(mask: Array) -> tuple[slice, ...]:
    """The smallest box that holds all of `mask`, which holds something."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        at = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(int(at[0]), int(at[-1]) + 1))
    return tuple(sides)
