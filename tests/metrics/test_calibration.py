"""Calibration error against torchmetrics; the best threshold against trying every one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_saliency import maps
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from segmend.errors import SegmendError
from segmend.metrics import CalibrationError, ThresholdCurve, best_global_threshold


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_binary_error_agrees_with_torchmetrics(seed, num_bins):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(3, 8, 8, generator=generator, dtype=torch.float64)
    target = (torch.rand(3, 8, 8, generator=generator) < probs**2).long()
    target[0, :3] = 255
    metric = CalibrationError(num_bins=num_bins)
    for index in range(3):
        metric.update(probs[index : index + 1, None], target[index : index + 1])
    theirs = BinaryCalibrationError(n_bins=num_bins, norm="l1")
    valid = target != 255
    theirs.update(probs[valid].float(), target[valid])
    torch.testing.assert_close(metric.compute().float(), theirs.compute(), atol=1e-5, rtol=0)


@given(st.integers(0, 10**6))
def test_many_classes_agree_with_torchmetrics(seed):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(2, 4, 6, 6, generator=generator).softmax(1)
    target = torch.randint(4, (2, 6, 6), generator=generator)
    metric = CalibrationError(num_bins=10)
    metric.update(probs, target)
    theirs = MulticlassCalibrationError(num_classes=4, n_bins=10, norm="l1")
    theirs.update(probs, target)
    torch.testing.assert_close(metric.compute().float(), theirs.compute(), atol=1e-5, rtol=0)


def test_calibration_by_hand_and_nothing_valid():
    metric = CalibrationError(num_bins=2)
    metric.update(torch.tensor([[[0.2, 0.2, 1.0, 0.6]]]), torch.tensor([[[0, 1, 1, 255]]]))
    # bin 1: two pixels, mean 0.2, frequency 0.5; bin 2: one pixel, 1.0 and 1
    assert float(metric.compute()) == pytest.approx(2 / 3 * 0.3)
    blank = CalibrationError()
    blank.update(torch.tensor([[[math.nan]]]), torch.tensor([[[255]]]))
    assert blank.compute().isnan()


@given(maps())
def test_best_threshold_agrees_with_trying_every_one(case):
    probs, target = case
    curve = ThresholdCurve(levels=256)
    for index in range(len(probs)):
        curve.update(probs[index : index + 1], target[index : index + 1])
    best = curve.compute()
    valid = target != 255
    level, truth = (probs[valid] * 255).round(), target[valid] == 1

    def iou_above(t):
        guess = level > t
        union = float((guess | truth).sum())
        return float((guess & truth).sum()) / union if union else math.nan

    tried = [iou_above(k) for k in range(255)]
    known = [value for value in tried if value == value]
    if not known:
        assert best.iou.isnan()
        assert best.threshold == 0.5
        return
    assert float(best.iou) == max(known)
    assert iou_above(float(best.threshold) * 255) == max(known)
    gaps = [abs((k + 0.5) / 255 - 0.5) for k, v in enumerate(tried) if v == max(known)]
    assert abs(float(best.threshold) - 0.5) == pytest.approx(min(gaps))


def test_sixteen_bit_maps_are_exact():
    levels = torch.tensor([[[100, 101, 40000, 65535]]])
    curve = ThresholdCurve()
    curve.update(levels.float() / 65535, torch.tensor([[[0, 1, 1, 1]]]))
    best = curve.compute()
    assert best.iou == 1
    assert float(best.threshold) == pytest.approx(100.5 / 65535)


def test_curve_and_merge():
    parts = [ThresholdCurve(levels=16), ThresholdCurve(levels=16)]
    probs, target = torch.linspace(0, 1, 32).view(2, 4, 4), torch.ones(2, 4, 4).long()
    for part, p, t in zip(parts, probs, target, strict=True):
        part.update(p[None], t[None])
    parts[0].merge_state(parts[1])
    thresholds, values = parts[0].curve()
    assert thresholds.shape == values.shape == (15,)
    assert parts[0].histogram.sum() == 32
    assert best_global_threshold(parts[0].histogram).iou == values.max()


@pytest.mark.parametrize(
    ("probs", "target", "message"),
    [
        (torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 3), "target: label 3"),
        (torch.zeros(1, 3, 2, 3), torch.zeros(1, 2, 2).long(), r"probs: want \(N, C, H, W\)"),
        (torch.full((1, 3, 2, 2), 2.0), torch.zeros(1, 2, 2).long(), "probabilities in"),
    ],
)
def test_bad_input_is_refused(probs, target, message):
    with pytest.raises(SegmendError, match=message):
        CalibrationError().update(probs, target)


def test_bad_options_are_refused():
    with pytest.raises(SegmendError, match="num_bins"):
        CalibrationError(num_bins=0)
    with pytest.raises(SegmendError, match="levels"):
        ThresholdCurve(levels=1)
