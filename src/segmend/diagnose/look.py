"""What one image contributes to a diagnosis: small arrays, after which the image is let go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segmend.diagnose.case import Case
from segmend.diagnose.frame import Array, Frame, frame_of, region_of
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.oracles.classes import (
    against_background,
    candidates_of_truth,
    ruled_out,
)
from segmend.diagnose.oracles.contour import steps_of
from segmend.diagnose.oracles.levels import Levels
from segmend.diagnose.oracles.shapes import find_shapes
from segmend.diagnose.oracles.thresholds import (
    RATES,
    Choice,
    choose,
    merge_patches,
    patch_histogram,
    patch_places,
)
from segmend.diagnose.scoring import Counts

RUNG = int(np.abs(RATES - 0.6).argmin())
"""Where labels must be made of the cuts (many classes), one exchange rate is tried: that of an IoU
of 0.6. Another rate would cost as much again and, near it, gain little."""


@dataclass
class Look:
    """Of one image.

    Attributes:
        frame: its labels. base: its counts (C, 3).
        steps: as from `steps_of`, for the widest band.
        mended: counts (C, 3) by the key of a fix; held_out: of fixes with thresholds, where the
            other half of each patch chose (many classes).
        choices: by the key of a fix with thresholds (binary maps).
        histogram: (2, levels), pixels by truth and level (binary maps).
        level, leader: of each pixel, as from `Levels.of` and `against_background`; None without
            a map or a background.
        areas, recalls: of the objects of the truth.
    """

    frame: Frame
    base: Counts
    steps: Array
    mended: dict[str, Counts] = field(default_factory=dict)
    held_out: dict[str, Counts] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    histogram: NDArray[np.int64] | None = None
    level: Array | None = None
    leader: Array | None = None
    areas: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    recalls: Array = field(default_factory=lambda: np.zeros(0))


def look_at(case: Case, *, options: DiagnoseOptions, num_classes: int, levels: Levels) -> Look:
    """Measure one image; raises SegmendError as `frame_of`."""
    frame = frame_of(case, num_classes)
    widest = max(options.boundary_widths, default=1)
    look = Look(frame, region_of(frame.confusion), steps_of(frame, widest))
    if case.probs is not None and options.background:
        scores, look.leader = against_background(frame, case.probs)
        look.level = levels.of(scores, frame.prediction != 0)
        _thresholds(look, options, levels)
    _outlines_and_shapes(look, options)
    if case.probs is not None and num_classes > 2:
        known = case.candidates
        candidates = candidates_of_truth(frame) if known is None else known.numpy()
        look.mended["candidates"] = ruled_out(frame, case.probs, candidates)
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


def _thresholds(look: Look, options: DiagnoseOptions, levels: Levels) -> None:
    """Thresholds by image and by patch, from one histogram of the smallest patches."""
    frame = look.frame
    assert look.level is not None
    positive = frame.target == look.leader
    largest = max(frame.target.shape)
    sizes = sorted({size for size in options.patch_sizes if size < largest})
    known: tuple[int, Array] | None = None
    for size in [*sizes, largest]:
        if known is not None and size == largest:
            histogram = merge_patches(known[1], max(known[1].shape[:-3]))
        elif known is not None and size % known[0] == 0:
            histogram = merge_patches(known[1], size // known[0])
        else:
            histogram = patch_histogram(look.level, positive, frame.valid, size, levels.count)
        known = (size, histogram)
        choice = choose(histogram, levels)
        keys = [f"patch-{size}"]
        if size == largest:  # a patch as large as the image is the image
            wide = [f"patch-{wide}" for wide in options.patch_sizes if wide >= largest]
            keys = ["threshold-image", *wide]
        for key in keys:
            if frame.num_classes == 2:
                look.choices[key] = choice
            else:
                look.mended[key], look.held_out[key] = _relabelled(look, choice, size)
    if frame.num_classes == 2 and known is not None:
        look.histogram = known[1].reshape(2, 2, levels.count).sum(0)


def _relabelled(look: Look, choice: Choice, size: int) -> tuple[Counts, Counts]:
    """Counts (C, 3) under the chosen cuts, and under those that the other halves chose."""
    frame = look.frame
    assert look.level is not None
    assert look.leader is not None
    half = patch_places(frame.target.shape, size)[0]
    chosen = np.repeat(choice.cuts[:, RUNG], 2)
    found = []
    for cuts in (chosen, choice.held_out_cuts[:, :, RUNG].reshape(-1)):
        foreground = look.level >= cuts.astype(np.int32)[half]
        changed = foreground != (frame.prediction != 0)
        if frame.valid is not None:
            changed &= frame.valid
        at = np.flatnonzero(changed)
        labels = np.where(foreground.reshape(-1)[at], look.leader.reshape(-1)[at], 0)
        found.append(frame.relabelled(at, labels))
    return found[0], found[1]
