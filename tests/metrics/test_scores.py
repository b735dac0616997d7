"""Means over classes, by hand."""

from __future__ import annotations

import pickle

import pytest
import torch

from segmend.errors import SegmendError
from segmend.metrics import BoundaryF, RegionIoU, class_mean

NAN = float("nan")
VALUES = torch.tensor([0.9, NAN, 0.5, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "mean", "present", "absent"),
    [
        ({}, 1.5 / 3, 3, (1,)),
        ({"absent": "zero"}, 1.5 / 4, 3, (1,)),
        ({"absent": "one"}, 2.5 / 4, 3, (1,)),
        ({"background": 0}, 0.6 / 2, 2, (1,)),
        ({"background": 0, "absent": "zero"}, 0.6 / 3, 2, (1,)),
        ({"background": 1, "absent": "one"}, 1.5 / 3, 3, ()),
    ],
)
def test_by_hand(options, mean, present, absent):
    found = class_mean(VALUES, **options)
    assert found.mean == pytest.approx(mean)
    assert (found.num_present, found.absent) == (present, absent)


def test_nothing_present_is_nan_unless_absent_counts():
    nothing = torch.full((3,), NAN)
    assert class_mean(nothing).mean.isnan()
    assert class_mean(nothing, absent="one").mean == 1


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        (VALUES[None], {}, r"per_class: want float \(C,\), got torch.float64 \(1, 4\)"),
        (VALUES, {"absent": "nan"}, "absent: want one of skip, zero, one, got 'nan'"),
        (VALUES, {"background": 4}, "background: want a label below 4, got 4"),
    ],
)
def test_errors(values, options, text):
    with pytest.raises(SegmendError, match=text):
        class_mean(values, **options)


@pytest.mark.parametrize("metric", [RegionIoU(num_classes=3), BoundaryF(num_classes=3)])
def test_metrics_survive_pickling_as_workers_do(metric):
    labels = torch.tensor([[[0, 1, 2], [0, 1, 1]]])
    metric.update(labels, labels)
    again = pickle.loads(pickle.dumps(metric))
    again.update(labels, labels.flip(2))
    assert again.compute().num_images == 2
    assert metric.compute().pooled == 1
