"""MAE and F-measure against NumPy loops over images and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.metrics import MaxFMeasure, MeanAbsoluteError


@st.composite
def maps(draw):
    """(probs, target), binary, with ignored pixels and images without foreground."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    probs = torch.rand(shape, generator=generator)
    if draw(st.booleans()):
        probs = (probs * 4).round() / 4  # ties
    target = (torch.rand(shape, generator=generator) < draw(st.sampled_from([0.1, 0.5]))).long()
    ignored = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    return probs, target.masked_fill(ignored, 255)


def f(precision, recall):
    below = 0.3 * precision + recall
    return 1.3 * precision * recall / below if below else 0.0


def precision_recall(level, truth, t):
    hits = sum(v >= t and g for v, g in zip(level, truth, strict=True))
    reached = sum(v >= t for v in level)
    return hits / reached if reached else 0.0, hits / sum(truth)


def f_by_definition(probs, target):
    """Oracle: maximal F, mean F and adaptive F by loops."""
    images = []
    for p, t in zip(probs.numpy(), target.numpy(), strict=True):
        level = [round(v) for v in (p[t != 255] * np.float32(255)).tolist()]
        truth = [bool(v) for v in t[t != 255]]
        if any(truth):
            images.append((level, truth))
    if not images:
        return [math.nan] * 3
    curve = []
    for t in range(256):
        pairs = [precision_recall(*image, t) for image in images]
        curve.append(f(*np.mean(pairs, axis=0)))
    adaptive = [
        f(*precision_recall(level, truth, min(2 * sum(level) / len(level), 255)))
        for level, truth in images
    ]
    return [max(curve), float(np.mean(curve)), float(np.mean(adaptive))]


@given(maps())
def test_f_measures_agree_with_the_definition(case):
    probs, target = case
    metric = MaxFMeasure()
    for index in range(len(probs)):
        metric.update(probs[index : index + 1], target[index : index + 1])
    got = metric.compute()
    want = f_by_definition(probs, target)
    np.testing.assert_allclose(
        [got.maximal, got.mean, got.adaptive], want, rtol=1e-9, equal_nan=True
    )
    assert got.num_images == len(probs)


@given(maps())
def test_the_threshold_gives_the_maximum(case):
    probs, target = case
    metric = MaxFMeasure()
    metric.update(probs[:1], target[:1])
    got = metric.compute()
    if got.num_scored:
        level = (probs[0] * 255).round()
        valid = target[0] != 255
        guess, truth = (level >= got.threshold * 255 - 1e-6)[valid], (target[0] == 1)[valid]
        hits = float((guess & truth).sum())
        assert f(hits / float(guess.sum()), hits / float(truth.sum())) == pytest.approx(
            float(got.maximal)
        )


def test_adaptive_threshold_is_twice_the_mean_and_not_a_level_less():
    level = torch.tensor([[[0.0, 0.0, 3.0, 2.0]]])  # mean 1.25, so only the 3 reaches 2.5
    metric = MaxFMeasure()
    metric.update(level / 255, torch.tensor([[[0, 0, 1, 0]]]))
    assert metric.compute().adaptive == 1


@given(maps())
def test_mae_agrees_with_the_definition(case):
    probs, target = case
    metric = MeanAbsoluteError()
    metric.update(probs[:, None], target)
    errors = [
        np.abs(p[t != 255].astype(float) - t[t != 255]).mean()
        for p, t in zip(probs.numpy(), target.numpy(), strict=True)
        if (t != 255).any()
    ]
    want = np.mean(errors) if errors else math.nan
    np.testing.assert_allclose(metric.compute(), want, rtol=1e-9, equal_nan=True)


@given(maps())
def test_nan_under_ignored_pixels_cannot_matter(case):
    probs, target = case
    spoilt = probs.masked_fill(target == 255, math.nan)
    for make in (MeanAbsoluteError, MaxFMeasure):
        results = []
        for values in (probs, spoilt):
            metric = make()
            metric.update(values, target)
            results.append(torch.stack([torch.as_tensor(metric.compute())]).flatten())
        assert torch.equal(results[0].nan_to_num(-1), results[1].nan_to_num(-1))


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5])
@pytest.mark.parametrize("make", [MeanAbsoluteError, MaxFMeasure])
def test_no_probability_is_refused(make, value):
    with pytest.raises(SegmendError, match=r"probs: want probabilities in \[0, 1\]"):
        make().update(torch.full((1, 2, 2), value), torch.ones(1, 2, 2).long())


def test_labels_beyond_one_are_refused():
    with pytest.raises(SegmendError, match="target: label 2"):
        MaxFMeasure().update(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 2))
