"""Diagnoses made by hand, so that what is drawn of them can be tested without measuring."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from segmend.diagnose.case import Case
from segmend.diagnose.result import (
    BackgroundCluster,
    Diagnosis,
    Fix,
    ImageRow,
    Recommendation,
    ReliabilityCurve,
    Score,
    Setting,
    SizeBin,
    SpatialBias,
    Verdict,
)

FIXES = (
    Fix("global-threshold", "One better threshold", "threshold", None, 0.011, 0.004, 0.018, 0.009,
        None, "The threshold that gives the best score over the whole set, instead of 0.5."),
    Fix("image-threshold", "A threshold per image", "threshold", None, 0.034, 0.027, 0.043, 0.041,
        0.019, "The best threshold of each image."),
    Fix("patch-128", "A threshold per 128 px patch", "patch", "refine", 0.071, 0.058, 0.085, 0.080,
        0.024, "The best threshold of each patch of 128 x 128 pixels."),
    Fix("patch-64", "A threshold per 64 px patch", "patch", "refine", 0.102, 0.088, 0.117, 0.110,
        0.041, "The best threshold of each patch of 64 x 64 pixels."),
    Fix("boundary-2", "Outlines right within 2 px", "contour", "refine", 0.043, 0.038, 0.047, 0.046,
        None, "Every pixel within 2 px of a true outline takes its true label."),
    Fix("islands", "False objects removed", "islands", "context", 0.016, 0.008, 0.027, 0.018,
        None, "Predicted objects that touch no true one are removed."),
    Fix("spill", "Over-segmentation removed", "spill", "context", 0.024, 0.013, 0.036, 0.020,
        None, "False pixels that touch a true object are removed."),
    Fix("missed", "Missed objects restored", "missed", None, 0.019, 0.010, 0.030, 0.022,
        None, "True objects of which nothing was found are drawn."),
    Fix("holes", "Holes filled", "holes", None, 0.002, 0.0, 0.004, 0.002,
        None, "Holes of predicted objects that are none in truth are filled."),
)  # fmt: skip
SIDE = 48


@dataclass(frozen=True)
class Discs:
    """Cases that are drawn when asked for: a disc, and a prediction of it that is off."""

    names: tuple[str, ...]
    shift: int = 4
    num_classes: int = 2
    with_image: bool = True
    depth: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Case:
        if not 0 <= index < len(self.names):
            raise IndexError(index)
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE + 16), indexing="ij")
        label = 1 + index % (self.num_classes - 1)
        centre = 18 + index % 9
        distance = ((y - 24) ** 2 + (x - centre) ** 2).float().sqrt()
        moved = ((y - 24) ** 2 + (x - centre - self.shift) ** 2).float().sqrt()
        target, prediction = (distance < 13).long() * label, (moved < 13).long() * label
        valid = y < SIDE - 3
        wave = torch.stack([x / 80 + 0.1, y / 70 + 0.2, (distance < 13) * 0.3 + 0.3]).float()
        image = wave if self.with_image else None
        probs = ((13 - moved) / 3).sigmoid()[None] if self.num_classes == 2 else None
        if self.depth is not None:
            target, prediction, valid = (
                plane[..., None].repeat(1, 1, self.depth) for plane in (target, prediction, valid)
            )
            target[..., 0] = 0  # so that one slice is worse than the others
            probs, image = None, None
        return Case(self.names[index], prediction, target, valid, probs, image)


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"plate_{index // 40:02d}/field_{index:04d}" for index in range(count))


def rows_of(names: tuple[str, ...], fixes: tuple[Fix, ...] = FIXES) -> tuple[ImageRow, ...]:
    luck = random.Random(0)
    rows = []
    for index, name in enumerate(names):
        score = math.nan if index == 5 else round(luck.betavariate(7, 2.4), 6)
        gains = {fix.key: round(luck.expovariate(1 / (fix.gain + 1e-4)), 6) for fix in fixes}
        rows.append(ImageRow(index, name, score, gains))
    return tuple(rows)


def bias_of(rows: int = 8, columns: int = 10) -> SpatialBias:
    error = [[0.09 * math.cos(r / 2) - 0.1 * c / columns for c in range(columns)]
             for r in range(rows)]  # fmt: skip
    return SpatialBias(
        error=tuple(map(tuple, error)),
        offset=tuple(tuple(-12 * value for value in line) for line in error),
        p_value=0.002,
        spread=0.061,
        chance_spread=0.018,
    )


def curve_of(label: str, near: bool | None, bend: float) -> ReliabilityCurve:
    confidence = tuple((bin_ + 0.5) / 10 for bin_ in range(10))
    frequency = tuple(p - bend * math.sin(math.pi * p) for p in confidence)
    count = tuple(int(90_000 * (0.05 + (p - 0.5) ** 2)) for p in confidence)
    return ReliabilityCurve(label, near, confidence, frequency, count, abs(bend) * 0.7)


def made_diagnosis(
    count: int = 60, *, names: tuple[str, ...] | None = None, cases: bool = True
) -> Diagnosis:
    """Of a binary problem, with all that a report can show."""
    names = names or names_of(count)
    refine = Recommendation(
        "refine", "PatchRefineNet: mend the maps after training", 0.061, 0.012, 0.021, 0.033,
        "segmend refine fit --probs probs/val --masks masks/val --out refiner",
        "The prediction leans one way at the left edge and the other at the right.",
    )  # fmt: skip
    context = Recommendation(
        "context", "CoLab: train again with context labels", 0.024, 0.0, 0.007, 0.014,
        "segmend train --images images --masks masks --context 2 --out base2",
        "Most false pixels lie in one kind of background.",
    )  # fmt: skip
    return Diagnosis(
        setting=Setting(len(names), ("background", "nucleus"), 2, True, 0.5, "IoU", "probs/val"),
        score=Score(0.7421, 0.7183, 0.7667, 0.7305),
        fixes=FIXES,
        images=rows_of(names),
        verdict=Verdict(
            "The masks lean one way or the other depending on the place in the frame; mending that "
            "could gain up to 6.1 points of IoU.", "patch-64", (refine, context),
        ),
        bias=bias_of(),
        calibration=(
            curve_of("nucleus", None, 0.08),
            curve_of("nucleus", True, 0.15),
            curve_of("nucleus", False, 0.03),
        ),
        sizes=tuple(
            SizeBin(4**k, 4 ** (k + 1) - 1, 900 // (k + 1), 0.45 + 0.08 * k, 0.3 + 0.11 * k)
            for k in range(2, 7)
        ),
        clusters=(
            BackgroundCluster("1", (0.12, 0.13, 0.16), 0.62, 0.004, 0.11),
            BackgroundCluster("2", (0.85, 0.72, 0.80), 0.27, 0.021, 0.28),
            BackgroundCluster("3", (0.55, 0.36, 0.58), 0.11, 0.118, 0.61),
        ),
        confusion=((905_112, 24_310), (31_877, 170_004)),
        cases=Discs(names) if cases else None,
    )  # fmt: skip


def many_classes(count: int = 12) -> Diagnosis:
    """Of a problem with many classes, hard masks only."""
    classes = ("background", *(f"class {index}" for index in range(1, count)))
    luck = random.Random(1)
    confusion = tuple(
        tuple(90_000 if r == c else int(luck.expovariate(1 / 900)) for c in range(count))
        for r in range(count)
    )
    names = names_of(20)
    pair = Fix("confusion-3-7", "class 3 called class 7", "confusion", "rectify", 0.031, 0.02,
               0.044, 0.03, None, "Those pixels take their true class.")  # fmt: skip
    fixes = (*FIXES[4:], pair)
    return Diagnosis(
        setting=Setting(20, classes, 2, False, None, "mIoU"),
        score=Score(0.512, 0.47, 0.55, 0.53),
        fixes=fixes,
        images=rows_of(names, fixes),
        verdict=Verdict("Nothing to mend stands out of what chance would bring.", None),
        calibration=tuple(curve_of(name, near, 0.1) for name in classes for near in (True, False)),
        confusion=confusion,
        cases=Discs(names, num_classes=count),
    )
