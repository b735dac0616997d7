"""One image of a diagnosis as arrays: its errors, found once, and counts after mending some."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.errors import SegmendError

Array = NDArray[Any]


@dataclass(frozen=True)
class Frame:
    """Labels of one image or volume.

    Attributes:
        prediction, target: labels (H, W[, D]) below `num_classes`, unsigned; 0 where not `valid`.
        valid: bool of the same shape, None where every pixel counts.
    """

    prediction: Array
    target: Array
    valid: Array | None
    num_classes: int

    @cached_property
    def wrong(self) -> Array:
        """Flat positions of the valid pixels whose label is wrong, ascending."""
        return np.flatnonzero(self.prediction != self.target)

    @cached_property
    def wrong_target(self) -> Array:
        return self.target.reshape(-1).take(self.wrong)

    @cached_property
    def wrong_prediction(self) -> Array:
        return self.prediction.reshape(-1).take(self.wrong)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Valid pixels by true class (row) and predicted class (column)."""
        confusion = self._pairs(self.wrong_target, self.wrong_prediction)
        members = np.bincount(self.target.reshape(-1), minlength=self.num_classes)
        if self.valid is not None:  # they hold label 0
            members[0] -= self.valid.size - np.count_nonzero(self.valid)
        confusion[np.diag_indices(self.num_classes)] = members - confusion.sum(1)
        return confusion

    def mended(self, chosen: Array) -> NDArray[np.int64]:
        """Counts (C, 3) once the `chosen` wrong pixels (bool, one a wrong pixel) are set right."""
        moved = self._pairs(self.wrong_target[chosen], self.wrong_prediction[chosen])
        confusion = self.confusion - moved
        confusion[np.diag_indices(self.num_classes)] += moved.sum(1)
        return region_of(confusion)

    def relabelled(self, at: Array, labels: Array) -> NDArray[np.int64]:
        """Counts (C, 3) once the valid pixels at flat positions `at` carry `labels`."""
        truth = self.target.reshape(-1).take(at)
        before = self.prediction.reshape(-1).take(at)
        moved = self._pairs(truth, labels) - self._pairs(truth, before)
        return region_of(self.confusion + moved)

    def _pairs(self, truth: Array, labels: Array) -> NDArray[np.int64]:
        key = truth.astype(np.int64) * self.num_classes + labels
        size = self.num_classes
        return np.bincount(key, minlength=size * size).reshape(size, size)


def region_of(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """[tp, fp, fn] of each class, (C, 3), from pixels by true and predicted class."""
    hits = np.diagonal(confusion)
    return np.stack((hits, confusion.sum(0) - hits, confusion.sum(1) - hits), axis=-1)


def frame_of(case: Case, num_classes: int) -> Frame:
    """The arrays of `case`.

    Raises:
        SegmendError: shapes differ, or a valid pixel's label is out of range.
    """
    shape = tuple(case.target.shape)
    for name, tensor in (("prediction", case.prediction), ("valid", case.valid)):
        if tuple(tensor.shape) != shape:
            raise SegmendError(
                f"{case.name}: {name} is {tuple(tensor.shape)}, the target {shape}; want one shape"
            )
    if len(shape) not in (2, 3):
        raise SegmendError(f"{case.name}: want a target (H, W) or (H, W, D), got {shape}")
    if not case.target.numel():
        raise SegmendError(f"{case.name}: want at least one pixel, got shape {shape}")
    keep: Array | None = np.ascontiguousarray(case.valid.numpy())
    if keep is not None and keep.view(np.uint8).min():
        keep = None
    labels = [
        _labels(case.name, name, tensor.numpy(), keep, num_classes)
        for name, tensor in (("prediction", case.prediction), ("target", case.target))
    ]
    return Frame(labels[0], labels[1], keep, num_classes)


def _labels(case: str, name: str, values: Array, keep: Array | None, num_classes: int) -> Array:
    values = values if keep is None else np.where(keep, values, 0)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise SegmendError(
            f"{case}: {name} holds the label {wrong}; want 0 .. {num_classes - 1}: name more "
            "classes, or mark such pixels as ignored in the target"
        )
    dtype = np.uint8 if num_classes <= 255 else np.uint16
    return np.ascontiguousarray(values, dtype=dtype)
