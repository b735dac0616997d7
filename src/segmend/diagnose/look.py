"""What one image contributes to a diagnosis: small arrays, after which the image is let go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.diagnose.frame import Array, Frame, frame_of, region_of
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.oracles.contour import steps_of
from segmend.diagnose.oracles.levels import Levels
from segmend.diagnose.oracles.shapes import find_shapes
from segmend.diagnose.oracles.thresholds import (
    Choice,
    choose,
    merge_patches,
    patch_histogram,
)
from segmend.diagnose.scoring import Counts


@dataclass
class Look:
    """Of one image.

    Attributes:
        frame: its labels.
        mended: counts (C, 3) by the key of a fix.
        choices: by the key of a fix with thresholds (binary maps).
        histogram: (2, levels), pixels by truth and level (binary maps).
        steps: as from `steps_of`, for the widest band.
        areas, recalls: of the objects of the truth.
    """

    frame: Frame
    base: Counts
    steps: Array
    mended: dict[str, Counts] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    histogram: NDArray[np.int64] | None = None
    areas: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    recalls: Array = field(default_factory=lambda: np.zeros(0))


def look_at(case: Case, *, options: DiagnoseOptions, num_classes: int, levels: Levels) -> Look:
    """Measure one image; raises SegmendError as `frame_of`."""
    frame = frame_of(case, num_classes)
    widest = max(options.boundary_widths, default=1)
    look = Look(frame, region_of(frame.confusion), steps_of(frame, widest))
    _outlines_and_shapes(look, options)
    if case.probs is not None and num_classes == 2:
        _thresholds(look, case, options, levels)
    return look


def _outlines_and_shapes(look: Look, options: DiagnoseOptions) -> None:
    frame = look.frame
    steps = look.steps.reshape(-1).take(frame.wrong)
    for width in options.boundary_widths:
        look.mended[f"boundary-{width}"] = frame.mended((steps > 0) & (steps <= width))
    if not options.background:
        return
    shapes = find_shapes(frame, steps == 0, missed_share=options.missed_share)
    for key in ("islands", "spill", "missed", "holes"):
        look.mended[key] = frame.mended(getattr(shapes, key))
    look.areas, look.recalls = shapes.areas, shapes.recalls


def _thresholds(look: Look, case: Case, options: DiagnoseOptions, levels: Levels) -> None:
    """Thresholds by image and by patch, from one histogram of the smallest patches."""
    assert case.probs is not None
    frame = look.frame
    level = levels.of(case.probs[0].numpy(), frame.prediction == 1)
    positive = frame.target == 1
    largest = max(frame.target.shape)
    sizes = sorted({size for size in options.patch_sizes if size < largest})
    known: tuple[int, Array] | None = None
    for size in [*sizes, largest]:
        if known is not None and size % known[0] == 0:
            histogram = merge_patches(known[1], size // known[0])
        elif known is not None and size == largest:
            histogram = merge_patches(known[1], max(known[1].shape[:-3]))
        else:
            histogram = patch_histogram(level, positive, frame.valid, size, levels.count)
        known = (size, histogram)
        key = "threshold-image" if size == largest else f"patch-{size}"
        look.choices[key] = choose(histogram, levels)
    assert known is not None
    look.histogram = known[1].reshape(2, 2, levels.count).sum(0)
    whole = look.choices["threshold-image"]
    for size in options.patch_sizes:  # a patch as large as the image is the image
        look.choices.setdefault(f"patch-{size}", whole)
