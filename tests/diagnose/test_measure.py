"""The whole measurement: what is exact stays so, what is perfect stays silent."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from segmend.data.planted import plant
from segmend.diagnose import DiagnoseOptions, Diagnosis, TensorCases, measure
from segmend.diagnose.clusters import Background, colour_words
from segmend.diagnose.frame import frame_of
from segmend.diagnose.reliability import Reliability
from segmend.diagnose.sizes import size_bins
from segmend.errors import SegmendError
from segmend.metrics import CalibrationError, class_score, iou, region_counts

QUICK = DiagnoseOptions(num_resamples=50, permutations=99)
EXACT = ("boundary", "islands", "spill", "missed", "holes", "confusion", "threshold", "patch")


def planted(kind: str, num_classes: int = 2, count: int = 6) -> Diagnosis:
    made = plant(kind, count=count, size=(64, 64), num_classes=num_classes, seed=1)
    cases = TensorCases(made.probs, made.targets, images=made.images)
    return measure(cases, options=QUICK)


def gains(diagnosis: Diagnosis) -> dict[str, float]:
    return {fix.key: fix.gain for fix in diagnosis.fixes}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_perfect_predictions_have_nothing_to_mend(num_classes: int) -> None:
    found = planted("perfect", num_classes)
    assert found.score.pooled == 1.0
    assert set(gains(found).values()) == {0.0}
    assert all(fix.low == fix.high == 0.0 for fix in found.fixes)
    assert found.bias is not None
    assert found.bias.p_value == 1.0
    assert all(set(row.gains.values()) == {0.0} for row in found.images)


def test_the_threshold_that_is_named_gains_what_it_promises() -> None:
    made = plant("miscalibration", count=6, size=(64, 64), seed=1)
    found = measure(TensorCases(made.probs, made.targets), options=QUICK)
    (fix,) = (fix for fix in found.fixes if fix.key == "threshold-global")
    masks = torch.stack([(p[0] > fix.value[0]).long() for p in made.probs])
    counts = region_counts(masks, torch.stack(made.targets))
    scored = float(class_score(iou(counts.sum(0))))
    # Of maps finer than 8 bits a cut lies within half a step of the threshold.
    assert scored == pytest.approx(found.score.pooled + fix.gain, abs=0.003)
    assert fix.gain > 0.05


@pytest.mark.parametrize("num_classes", [2, 4])
def test_every_fix_is_measured_and_exact_ones_never_lose(num_classes: int) -> None:
    found = measure(TensorCases(*noise(num_classes)), options=QUICK.model_copy(update={"pairs": 2}))
    expected = {
        *(f"patch-{size}" for size in (32, 64, 128)), "threshold-image", "bias-grid",
        "boundary-1", "boundary-2", "boundary-4", "islands", "spill", "missed", "holes",
    }  # fmt: skip
    expected |= (
        {"threshold-global"} if num_classes == 2 else {"offset-class", "candidates", "confusion"}
    )
    keys = {fix.key for fix in found.fixes}
    assert expected <= keys
    assert len(keys - expected) == (0 if num_classes == 2 else 2)
    for fix in found.fixes:
        assert fix.low <= fix.gain + 0.2
        assert fix.title
        assert fix.explanation
        if fix.key.startswith(EXACT):
            assert fix.gain >= 0, fix.key
    bands = [gains(found)[f"boundary-{width}"] for width in (1, 2, 4)]
    assert bands == sorted(bands)


def noise(num_classes: int, shape: tuple[int, ...] = (40, 50)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, num_classes, (4, *shape), generator=generator)
    logits = torch.randn(4, num_classes, *shape, generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full_like(target[:, None], 1).float())
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    probs = logits.softmax(1)
    return (probs[:, 1:] if num_classes == 2 else probs), target


def test_score_and_gain_are_those_of_the_metric() -> None:
    probs, target = noise(2)
    found = measure(TensorCases(probs, target), options=QUICK)
    counts = region_counts((probs[:, 0] > 0.5).long(), target)
    assert found.score.pooled == pytest.approx(float(class_score(iou(counts.sum(0)))))
    assert found.score.low <= found.score.pooled <= found.score.high
    rows = class_score(iou(counts))
    assert [row.score for row in found.images] == pytest.approx(rows.tolist())
    best = max(
        float(class_score(iou(region_counts((probs[:, 0] > t).long(), target).sum(0))))
        for t in torch.linspace(0.01, 0.99, 393)
    )
    reached = found.score.pooled + gains(found)["threshold-global"]
    assert reached == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("told", [False, True])
def test_pixels_of_impossible_classes_are_counted(told: bool) -> None:
    probs, target = noise(4)
    target[:2] = torch.where(target[:2] == 3, 0, target[:2])
    target[3] = torch.where(target[3] == 1, 2, target[3])
    shown = [{0, *t[t != 255].tolist()} for t in target]
    candidates = None
    if told:  # wider than what is shown: fewer pixels are impossible
        shown[0] = {0, 1, 2, 3}
        candidates = torch.tensor([[c in classes for c in range(4)] for classes in shown])
    found = measure(TensorCases(probs, target, candidates=candidates), options=QUICK)
    valid = target != 255
    wrong = sum(
        int(v) and int(p) not in classes
        for each, ok, classes in zip(probs.argmax(1), valid, shown, strict=True)
        for p, v in zip(each.flatten(), ok.flatten(), strict=True)
    )
    affected = {fix.key: fix.affected for fix in found.fixes}
    assert affected.pop("candidates") == pytest.approx(wrong / int(valid.sum()))
    assert wrong > 100
    assert set(affected.values()) == {None}


def test_volumes() -> None:
    probs, target = noise(2, (12, 10, 8))
    found = measure(TensorCases(probs, target), options=QUICK)
    assert found.setting.dimensions == 3
    flat = measure(TensorCases(probs.flatten(3), target.flatten(2)), options=QUICK)
    assert found.score == flat.score
    assert gains(found)["threshold-global"] == flat.fixes[[f.key for f in flat.fixes].index(
        "threshold-global")].gain  # fmt: skip
    assert found.bias is not None
    assert len(found.bias.error) == 8


def test_sizes_may_differ_between_images() -> None:
    made = [noise(2, shape) for shape in ((20, 30), (50, 41), (9, 7))]
    probs = [pair[0][0] for pair in made]
    target = [pair[1][0] for pair in made]
    found = measure(TensorCases(probs, target), options=QUICK)
    one = measure(TensorCases(probs[1:2], target[1:2]), options=QUICK)
    assert found.images[1].score == one.images[0].score
    assert found.images[1].gains["islands"] == one.images[0].gains["islands"]


def test_an_empty_image_and_a_wholly_ignored_one() -> None:
    target = torch.zeros(3, 16, 16).long()
    target[0, 4:9, 4:9] = 1
    target[2] = 255
    probs = torch.zeros(3, 1, 16, 16)
    probs[1, 0, 2:5, 2:5] = 0.9  # a false island on an empty image
    found = measure(TensorCases(probs, target), options=QUICK)
    assert [row.score for row in found.images[:2]] == [0.0, 0.0]
    assert np.isnan(found.images[2].score)
    assert found.images[1].gains["islands"] == 1.0
    assert found.images[0].gains["missed"] == 1.0
    assert found.images[2].gains["missed"] == 0.0


def test_labels_alone_and_no_background() -> None:
    target = torch.arange(3).repeat_interleave(16).view(1, 6, 8)
    pred = target.roll(1, 1)
    options = QUICK.model_copy(update={"background": False})
    found = measure(TensorCases(pred, target, num_classes=3), options=options, classes=list("abc"))
    keys = {fix.key for fix in found.fixes}
    assert "islands" not in keys
    assert "confusion-0-1" in keys
    assert found.bias is None
    assert "“a” and “b”" in next(f.title for f in found.fixes if f.key == "confusion-0-1")
    assert np.array(found.confusion).sum() == 48


def test_boundary_chance_is_the_part_without_direction() -> None:
    def outline(kind: str) -> tuple[float, float]:
        fix = next(f for f in planted(kind, count=8).fixes if f.key == "boundary-4")
        assert fix.chance is not None
        return fix.gain, fix.chance

    gain, chance = outline("erosion")
    assert chance < 0.1 * gain
    gain, chance = outline("noise")
    assert chance > 0.6 * gain


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again = (planted("leak", 4, count=4) for _ in range(2))
    assert first.to_dict() == again.to_dict()


@pytest.mark.parametrize(
    ("cases", "classes", "message"),
    [
        (TensorCases(torch.zeros(0, 1, 4, 4), torch.zeros(0, 4, 4).long()), None, "at least one"),
        (TensorCases(*noise(2)), ["a", "b", "c"], "3 names for 2 classes"),
    ],
)
def test_bad_sets_are_refused(cases: TensorCases, classes: list[str] | None, message: str) -> None:
    with pytest.raises(SegmendError, match=message):
        measure(cases, classes=classes)


def test_cases_of_other_kinds_are_named() -> None:
    cases = list(TensorCases(*noise(2), names=list("abcd")))
    cases[2] = replace(cases[2], probs=None)
    with pytest.raises(SegmendError, match="c: want a probability map"):
        measure(cases)
    with pytest.raises(SegmendError, match="do not say how many classes"):
        measure([replace(case, probs=None) for case in cases])


def test_reliability_of_all_pixels_is_the_calibration_error() -> None:
    probs, target = noise(2)
    metric = CalibrationError(num_bins=15)
    metric.update(probs, target)
    table = Reliability(2)
    for index, case in enumerate(TensorCases(probs, target)):
        frame = frame_of(case, 2)
        steps = np.zeros(frame.target.shape, np.uint8)
        steps[:5] = 1
        table.add(index, case, frame, steps)
    whole, near, far = table.curves(("background", "road"))
    assert whole.error == pytest.approx(float(metric.compute()), abs=1e-6)
    assert (whole.label, whole.near_boundary, near.near_boundary, far.near_boundary) == (
        "road", None, True, False,
    )  # fmt: skip
    assert sum(whole.count) == int((target != 255).sum()) == sum(near.count) + sum(far.count)


def test_size_bins_hold_each_object_once() -> None:
    areas = np.array([1, 1, 1, 2, 5, 9, 9, 30, 31, 100])
    recalls = np.linspace(0, 1, 10)
    bins = size_bins(areas, recalls)
    assert sum(one.objects for one in bins) == 10
    assert all(a.largest < b.smallest for a, b in pairwise(bins))
    assert sum(one.recall * one.objects for one in bins) == pytest.approx(recalls.sum())
    assert bins[-1].detected == 1.0
    assert size_bins(np.zeros(0, np.int64), np.zeros(0)) == ()


def test_clusters_say_which_background_is_taken_for_objects() -> None:
    image = torch.zeros(3, 32, 32)
    image[1, :, :16] = 0.6  # green left, blue right
    image[2, :, 16:] = 0.9
    prediction, target = torch.zeros(32, 32).long(), torch.zeros(32, 32).long()
    prediction[:16, 16:] = 1
    target[:8, :8] = 1
    case = TensorCases(prediction[None], target[None])[0]
    background = Background(1, seed=0)
    background.add(0, image, frame_of(case, 2))
    worst, other = background.clusters(5)
    assert worst.name.startswith("blue")
    assert (worst.share_of_false, worst.false_rate) == (1.0, 0.5)
    assert worst.share == pytest.approx(512 / 960)
    assert other.name.startswith("green")
    assert other.false_rate == 0.0
    assert Background(1, seed=0).clusters(3) == ()


@pytest.mark.parametrize(
    ("colour", "contrast", "words"),
    [
        ((0.05, 0.05, 0.05), 0.0, "black, smooth"),
        ((0.5, 0.5, 0.5), 0.05, "grey, textured"),
        ((0.95, 0.95, 0.95), 0.2, "white, strongly textured"),
        ((0.4, 0.25, 0.1), 0.0, "brown, smooth"),
        ((0.1, 0.3, 0.1), 0.0, "dark green, smooth"),
        ((0.9, 0.1, 0.1), 0.0, "red, smooth"),
    ],
)
def test_colour_words(colour: tuple, contrast: float, words: str) -> None:
    assert colour_words(np.array(colour, np.float32), contrast) == words
