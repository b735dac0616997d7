"""Oracles that set wrong pixels right, against loops over pixels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmend.diagnose.case import Case
from segmend.diagnose.frame import Frame, frame_of, region_of
from segmend.diagnose.oracles.classes import candidates_of_truth, confused, ruled_out
from segmend.diagnose.oracles.contour import outline_steps, steps_of
from segmend.diagnose.oracles.shapes import find_shapes
from segmend.errors import SegmendError
from segmend.metrics import region_counts

SHAPES = st.one_of(
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=4),
)


@st.composite
def frames(draw: st.DrawFn, num_classes: int = 3) -> Frame:
    """Small label maps, some pixels ignored."""
    shape = draw(SHAPES)
    labels = hnp.arrays(np.int64, shape, elements=st.integers(0, num_classes - 1))
    ignored = draw(hnp.arrays(bool, shape, elements=st.sampled_from([False] * 4 + [True])))
    case = Case(
        "0",
        torch.from_numpy(draw(labels)),
        torch.from_numpy(np.where(ignored, 255, draw(labels))),
        torch.from_numpy(~ignored),
    )
    return frame_of(case, num_classes)


def expected_counts(frame: Frame, prediction: np.ndarray) -> np.ndarray:
    """Counts of another prediction, by the metric."""
    valid = np.ones(frame.target.shape, bool) if frame.valid is None else frame.valid
    target = np.where(valid, frame.target.astype(np.int64), 255).reshape(1, 1, -1)
    labels = torch.from_numpy(prediction.astype(np.int64).reshape(1, 1, -1))
    found = region_counts(labels, torch.from_numpy(target), num_classes=frame.num_classes)
    return found[0].numpy()


def neighbours(at: tuple[int, ...], shape: tuple[int, ...], *, diagonal: bool) -> list:
    steps = [s for s in product((-1, 0, 1), repeat=len(shape)) if any(s)]
    if not diagonal:
        steps = [s for s in steps if sum(abs(x) for x in s) == 1]
    places = [tuple(a + b for a, b in zip(at, s, strict=True)) for s in steps]
    return [p for p in places if all(0 <= x < n for x, n in zip(p, shape, strict=True))]


def component(start: tuple[int, ...], mask: np.ndarray, *, diagonal: bool) -> set:
    """All that hangs together with `start` in `mask`."""
    found, todo = {start}, [start]
    while todo:
        for place in neighbours(todo.pop(), mask.shape, diagonal=diagonal):
            if mask[place] and place not in found:
                found.add(place)
                todo.append(place)
    return found


@given(frames())
def test_base_counts_are_the_metrics(frame: Frame) -> None:
    found = region_of(frame.confusion)
    assert np.array_equal(found, expected_counts(frame, frame.prediction))


@given(frames(), st.randoms(use_true_random=False))
def test_mending_is_relabelling(frame: Frame, random: object) -> None:
    chosen = np.array([random.random() < 0.5 for _ in frame.wrong], dtype=bool)
    prediction = frame.prediction.copy().reshape(-1)
    prediction[frame.wrong[chosen]] = frame.target.reshape(-1)[frame.wrong[chosen]]
    assert np.array_equal(frame.mended(chosen), expected_counts(frame, prediction))


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 2)), st.integers(1, 4))
def test_steps_are_the_city_block_distance_to_another_label(labels: np.ndarray, width: int) -> None:
    expected = np.zeros(labels.shape, int)
    places = list(np.ndindex(labels.shape))
    for at in places:
        steps = [
            sum(abs(a - b) for a, b in zip(at, other, strict=True))
            for other in places
            if labels[other] != labels[at]
        ]
        if steps and min(steps) <= width:
            expected[at] = min(steps)
    assert np.array_equal(outline_steps(labels, width), expected)


def test_an_ignored_ring_is_an_outline() -> None:
    target = np.zeros((5, 9), np.int64)
    target[:, 4] = 255
    target[:, 5:] = 1
    valid = target != 255
    tensors = (torch.from_numpy(x) for x in (np.zeros_like(target), target, valid))
    steps = steps_of(frame_of(Case("0", *tensors), 2), 2)
    assert steps[0].tolist() == [0, 0, 2, 1, 1, 1, 2, 0, 0]


@settings(max_examples=60)
@given(frames(), st.sampled_from([0.0, 0.3]))
def test_shapes_match_flood_fill(frame: Frame, missed_share: float) -> None:
    far = np.arange(len(frame.wrong)) % 2 == 0
    shapes = find_shapes(frame, far, missed_share=missed_share)
    prediction, target, shape = frame.prediction, frame.target, frame.target.shape
    for i, flat in enumerate(frame.wrong):
        at = np.unravel_index(flat, shape)
        true, called = target[at], prediction[at]
        island = spill = missed = hole = False
        if true == 0:
            valid = np.ones(shape, bool) if frame.valid is None else frame.valid
            part = component(at, (prediction == called) & valid, diagonal=True)
            island = not any(target[p] for p in part)
            spill = not island and bool(far[i])
        else:
            part = component(at, target == true, diagonal=True)
            missed = sum(prediction[p] != 0 for p in part) <= missed_share * len(part)
        if true != 0 and called == 0:
            part = component(at, prediction == 0, diagonal=False)
            hole = not any(x in (0, n - 1) for p in part for x, n in zip(p, shape, strict=True))
        found = (shapes.islands[i], shapes.spill[i], shapes.missed[i], shapes.holes[i])
        assert found == (island, spill, missed, hole)


@given(frames())
def test_objects_and_their_recalls(frame: Frame) -> None:
    shapes = find_shapes(frame, np.zeros(len(frame.wrong), bool), missed_share=0.0)
    expected, seen = [], set()
    for at in np.ndindex(frame.target.shape):
        if frame.target[at] and at not in seen:
            part = component(at, frame.target == frame.target[at], diagonal=True)
            seen |= part
            hits = sum(frame.prediction[p] == frame.target[at] for p in part)
            expected.append((len(part), hits / len(part)))
    assert sorted(zip(shapes.areas.tolist(), shapes.recalls.tolist(), strict=True)) == sorted(
        expected
    )


@given(frames(), st.data())
def test_candidates_by_pixel(frame: Frame, data: st.DataObject) -> None:
    probs = data.draw(
        hnp.arrays(np.float32, (3, *frame.target.shape), elements=st.floats(0, 1, width=16))
    )
    candidates = np.array([True, *data.draw(st.lists(st.booleans(), min_size=2, max_size=2))])
    prediction = frame.prediction.copy()
    for at in np.ndindex(prediction.shape):
        if not candidates[prediction[at]]:
            scores = [probs[(c, *at)] if candidates[c] else -1 for c in range(3)]
            prediction[at] = int(np.argmax(scores))
    found = ruled_out(frame, torch.from_numpy(probs), candidates)
    assert np.array_equal(found, expected_counts(frame, prediction))
    assert candidates_of_truth(frame)[0]


@given(frames())
def test_confused_pairs_set_right(frame: Frame) -> None:
    confusion = frame.confusion.reshape(-1)
    at = np.flatnonzero(confusion)
    base = region_of(frame.confusion)[None]
    found = confused([(at, confusion[at])], base, [(1, 2), (2, 1)])
    right = (frame.target + frame.prediction == 3) & (frame.target != 0) & (frame.prediction != 0)
    mended = np.where(right, frame.target, frame.prediction)
    assert np.array_equal(found[0], expected_counts(frame, mended))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.full((2, 2), 3), torch.zeros(2, 2).long(), "scan: prediction holds the label 3"),
        (torch.zeros(2, 2).long(), torch.full((2, 2), 7), "scan: target holds the label 7"),
        (torch.zeros(2, 3).long(), torch.zeros(2, 2).long(), "scan: prediction is"),
        (torch.zeros(0, 2).long(), torch.zeros(0, 2).long(), "scan: want at least one pixel"),
        (torch.zeros(4).long(), torch.zeros(4).long(), "scan: want a target"),
    ],
)
def test_bad_labels_name_the_case(
    prediction: torch.Tensor, target: torch.Tensor, message: str
) -> None:
    with pytest.raises(SegmendError, match=message):
        frame_of(Case("scan", prediction, target, torch.ones_like(target).bool()), 2)
