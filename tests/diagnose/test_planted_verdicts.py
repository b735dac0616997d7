"""The diagnosis finds what was planted, and keeps silent on what has no system."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segmend.data.planted import plant
from segmend.diagnose.decompose import measure
from segmend.diagnose.reading import TensorCases
from segmend.diagnose.result import Diagnosis
from segmend.diagnose.verdict import judge

NAMES = {
    "patch-bias": ("bias-grid",),
    "erosion": ("boundary-1", "boundary-2", "boundary-4"),
    "leak": ("islands", "spill"),
    "out-of-candidate": ("candidates",),
    "missed": ("missed",),
    "miscalibration": ("threshold-global", "offset-class"),
}


def diagnosed(
    strengths: dict[str, float], *, num_classes: int = 2, seed: int = 2000, count: int = 12
) -> Diagnosis:
    planted = plant(strengths, count=count, size=(80, 80), num_classes=num_classes, seed=seed)
    cases = TensorCases(
        planted.probs,
        planted.targets,
        candidates=planted.candidates,
        num_classes=num_classes,
    )
    found = replace(measure(cases), cases=None)
    return replace(found, verdict=judge(found))


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("kind", list(NAMES))
def test_a_planted_error_is_named(kind: str, num_classes: int) -> None:
    if kind == "out-of-candidate":
        num_classes += 2  # so that most images lack some of them
    found = diagnosed({kind: 0.5, "noise": 0.15}, num_classes=num_classes)
    assert found.verdict.dominant in NAMES[kind]


@pytest.mark.parametrize("strengths", [{"perfect": 1.0}, {"noise": 0.25}, {"noise": 0.6}])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_silent_where_nothing_was_planted(strengths: dict[str, float], num_classes: int) -> None:
    verdict = diagnosed(strengths, num_classes=num_classes).verdict
    assert verdict.dominant is None
    assert verdict.headline.startswith("Nothing stands out to mend")


@pytest.mark.parametrize(
    ("mix", "wanted"),
    [
        ({"miscalibration": 0.2, "missed": 0.7}, "missed"),
        ({"erosion": 0.6, "leak": 0.2}, "erosion"),
        ({"leak": 0.9, "missed": 0.1}, "leak"),
    ],
)
def test_the_larger_of_two_errors_is_named(mix: dict[str, float], wanted: str) -> None:
    assert diagnosed(mix).verdict.dominant in NAMES[wanted]


@pytest.mark.parametrize("kind", [k for k in NAMES if k != "out-of-candidate"])
def test_the_stronger_the_error_the_larger_its_fix(kind: str) -> None:
    gains = []
    for strength in (0.2, 0.4, 0.7):
        found = diagnosed({kind: strength}, seed=2001)
        gains.append(sum(f.gain for f in found.fixes if f.key in NAMES[kind][-2:]))
    assert gains == sorted(gains)
    assert gains[-1] > gains[0]
