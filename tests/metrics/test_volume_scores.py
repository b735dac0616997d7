"""Scores of volumes: against NumPy loops, SciPy distances and hand-made cases."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from segmend.errors import SegmendError
from segmend.metrics.lesions import lesion_counts, lesion_f1
from segmend.metrics.volume import FIELDS, VolumeScore, volume_scores

SPACING = (1.0, 2.0, 0.5)


@st.composite
def masks(draw):
    shape = draw(st.sampled_from([(4, 5), (3, 4, 3)]))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.random(shape) < draw(st.sampled_from([0, 0.2, 0.6])))
                 for _ in range(2))  # fmt: skip


def flood(mask):
    """Oracle: components by flooding, corners touch."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        front, part = [left.pop()], set()
        while front:
            p = front.pop()
            part.add(p)
            near = {q for q in left if max(abs(a - b) for a, b in zip(p, q, strict=True)) == 1}
            left -= near
            front += near
        found.append(part)
    return found


@given(masks())
def test_overlap_and_lesions_by_definition(case):
    found, wanted = (m.numpy() for m in case)
    scores = volume_scores(*case, spacing=SPACING[: found.ndim], surfaces=False)
    tp, fp = int((found & wanted).sum()), int((found & ~wanted).sum())
    fn = int((~found & wanted).sum())
    cell = math.prod(SPACING[: found.ndim])
    assert scores.false_positive_volume == pytest.approx(fp * cell)
    if tp + fp + fn:
        assert scores.dice == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert scores.precision == pytest.approx(tp / (tp + fp) if tp + fp else 0)
    else:
        assert math.isnan(scores.dice) and math.isnan(scores.precision)  # noqa: PT018
    if tp + fn:
        assert scores.sensitivity == pytest.approx(tp / (tp + fn))
    else:
        assert math.isnan(scores.sensitivity)
    lesions, stains = flood(wanted), flood(found)
    hit = sum(any(found[p] for p in part) for part in lesions)
    made_up = sum(not any(wanted[p] for p in part) for part in stains)
    assert lesion_counts(*case) == (hit, len(lesions) - hit, made_up)
    assert scores.false_positives == made_up


def test_surfaces_in_millimetres_against_a_search_tree():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1)
    found, wanted = (
        ((grid - c) ** 2).sum(-1) < 16 + rng.normal(0, 3, (12,) * 3) for c in (5.0, 6.2)
    )
    edges = []
    for mask in (found, wanted):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(3):
            inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
        edges.append(np.argwhere(padded & ~inner) * np.array(SPACING))
    there = cKDTree(edges[1]).query(edges[0])[0]
    back = cKDTree(edges[0]).query(edges[1])[0]
    scores = volume_scores(*map(torch.from_numpy, (found, wanted)), spacing=SPACING, tolerance=1.2)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert scores.hd95 == pytest.approx(expected, rel=1e-4)
    near = (there <= 1.2).sum() + (back <= 1.2).sum()
    assert scores.surface_dice == pytest.approx(near / (len(there) + len(back)), rel=1e-4)


def test_empty_cases():
    nothing, something = torch.zeros(3, 4, 5), torch.zeros(3, 4, 5)
    something[1, 1, 1] = 1
    diagonal = math.sqrt(3**2 + 8**2 + 2.5**2)
    both = volume_scores(nothing, nothing, spacing=SPACING)
    assert [n for n, v in both._asdict().items() if not math.isnan(v)] == [
        "false_positive_volume", "false_positives"]  # fmt: skip
    missed = volume_scores(nothing, something, spacing=SPACING)
    assert (missed.dice, missed.precision, missed.sensitivity, missed.surface_dice) == (0,) * 4
    assert missed.hd95 == pytest.approx(diagonal)
    assert missed.lesion_f1 == 0
    made_up = volume_scores(something, nothing, spacing=SPACING)
    assert (made_up.dice, made_up.precision, made_up.false_positives) == (0, 0, 1)
    assert math.isnan(made_up.sensitivity)
    assert made_up.hd95 == pytest.approx(diagonal)
    same = volume_scores(something, something, spacing=SPACING)
    assert (same.dice, same.hd95, same.surface_dice, same.lesion_f1) == (1, 0, 1, 1)


def test_ignored_voxels_count_nowhere():
    prediction, target = torch.ones(2, 2, 2), torch.ones(2, 2, 2)
    target[0], prediction[1] = 0, 0
    valid = torch.zeros(2, 2, 2, dtype=torch.bool)
    assert volume_scores(prediction, target, surfaces=False).dice == 0
    assert math.isnan(volume_scores(prediction, target, valid=valid, surfaces=False).dice)


def test_a_larger_overlap_can_be_asked_for():
    target, prediction = torch.zeros(4, 4), torch.zeros(4, 4)
    target[0], prediction[0, :2] = 1, 1
    assert lesion_counts(prediction, target, min_overlap=0.4) == (1, 0, 0)
    assert lesion_counts(prediction, target, min_overlap=0.5) == (0, 1, 0)
    assert lesion_f1(torch.tensor([[1, 1, 2], [0, 0, 0]])).tolist()[0] == pytest.approx(0.4)


def test_streaming_means_skip_cases_without_a_score():
    metric = VolumeScore(surfaces=False)
    assert metric.rows.shape == (0, len(FIELDS))
    for prediction, target in ((1, 1), (0, 0), (0, 1)):
        metric.update(torch.full((2, 2, 2), prediction), torch.full((2, 2, 2), target))
    means = metric.compute()
    assert means.dice == 0.5  # of the two cases that have one
    assert means.false_positive_volume == 0
    assert metric.rows.shape == (3, len(FIELDS))
    metric.reset()
    assert metric.rows.shape == (0, len(FIELDS))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spacing": (1, 1)}, "spacing"),
        ({"spacing": (1, 0, 1)}, "spacing"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(SegmendError, match=words):
        volume_scores(torch.ones(2, 2, 2), torch.ones(2, 2, 2), **options)
    with pytest.raises(SegmendError, match="one shape"):
        volume_scores(torch.ones(2, 2, 2), torch.ones(2, 2, 3))
    with pytest.raises(SegmendError, match="min_overlap"):
        lesion_counts(torch.ones(2, 2), torch.ones(2, 2), min_overlap=1.0)


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(SegmendError, match=r"pip install 'segmend\[medical\]'"):
        volume_scores(torch.ones(2, 2, 2), torch.ones(2, 2, 2))
