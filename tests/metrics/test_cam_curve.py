"""The curve over background constants against one argmax a constant, as the evaluators do it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.metrics import CamThresholdCurve, cam_threshold_counts, class_mean, iou, region_counts


@st.composite
def cases(draw):
    """(cams, target, tags); values in steps of 0.01, so that ties with the constants occur."""
    classes = draw(st.integers(1, 3))
    size = (draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    cams = torch.randint(71, (size[0], classes, *size[1:]), generator=generator) / 100
    target = torch.randint(classes + 1, size, generator=generator)
    target[torch.rand(size, generator=generator) < 0.2] = 255
    return cams, target, torch.randint(2, (size[0], classes), generator=generator)


def by_argmax(cams, target, constant):
    """Oracle: a map of the constant in front, then the argmax."""
    maps = torch.cat((torch.full_like(cams[:, :1], constant), cams), dim=1)
    return region_counts(maps.argmax(1), target, num_classes=maps.shape[1])


@settings(max_examples=15)
@given(cases())
def test_every_constant_agrees_with_its_own_argmax(case):
    cams, target, tags = case
    counts = cam_threshold_counts(cams, target)
    tagged = cam_threshold_counts(cams, target, tags=tags)
    assert counts.shape == (len(cams), 60, cams.shape[1] + 1, 3)
    for i in range(60):
        assert torch.equal(counts[:, i], by_argmax(cams, target, i / 100))
        kept = cams * tags[:, :, None, None]
        assert torch.equal(tagged[:, i], by_argmax(kept, target, i / 100))


@settings(max_examples=15)
@given(cases())
def test_the_stream_gives_the_curve_and_its_best(case):
    cams, target, _ = case
    parts = [CamThresholdCurve(num_classes=cams.shape[1] + 1) for _ in range(2)]
    for i in range(len(cams)):
        parts[i % 2].update(cams[i : i + 1], target[i : i + 1])
    parts[0].merge_state(parts[1])
    curve = parts[0].compute()
    per_class = [iou(by_argmax(cams, target, i / 100).sum(0)) for i in range(60)]
    expected = torch.stack([class_mean(row).mean for row in per_class])
    torch.testing.assert_close(curve.mean_iou, expected, equal_nan=True)
    torch.testing.assert_close(curve.per_class, torch.stack(per_class), equal_nan=True)
    if not expected.isnan().all():
        assert curve.best_mean_iou == expected.max()
        assert curve.best_threshold == int(expected.argmax()) / 100


def test_ignored_pixels_cannot_matter_and_nothing_valid_is_nan():
    cams, target = torch.rand(1, 2, 3, 3), torch.full((1, 3, 3), 255)
    cams[0, :, 0] = torch.nan
    assert cam_threshold_counts(cams, target).sum() == 0
    metric = CamThresholdCurve(num_classes=3)
    metric.update(cams, target)
    assert metric.compute().mean_iou.isnan().all()
    target[0, 1:] = 1
    assert cam_threshold_counts(cams, target).sum() > 0


@pytest.mark.parametrize(
    ("cams", "options", "text"),
    [
        (torch.full((1, 2, 3, 3), torch.nan), {}, "cams: .* found nan at index"),
        (torch.full((1, 2, 3, 3), 1.5), {}, r"cams: want probabilities in \[0, 1\], found 1.5"),
        (torch.rand(1, 2, 3, 2), {}, "resize the maps to the target"),
        (torch.rand(1, 2, 3, 3), {"tags": torch.ones(1, 3)}, r"tags: want \(1, 2\), got \(1, 3\)"),
        (torch.rand(1, 2, 3, 3), {"thresholds": [0.5, 0.5]}, "thresholds: want rising numbers"),
    ],
)
def test_errors(cams, options, text):
    with pytest.raises(SegmendError, match=text):
        cam_threshold_counts(cams, torch.zeros(1, 3, 3).long(), **options)


def test_the_number_of_maps_is_checked():
    with pytest.raises(SegmendError, match=r"cams: want \(N, 4, H, W\), got \(1, 2, 3, 3\)"):
        CamThresholdCurve(num_classes=5).update(torch.rand(1, 2, 3, 3), torch.zeros(1, 3, 3).long())
