"""Region IoU against pixel loops and torchmetrics' JaccardIndex."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import JaccardIndex

from segmend.errors import SegmendError
from segmend.metrics import RegionIoU, class_mean, dice, iou, region_counts


@st.composite
def labels(draw):
    """(prediction, target, num_classes), target with ignored pixels, sizes down to 1 x 1."""
    num_classes = draw(st.integers(2, 4))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    prediction = torch.randint(num_classes, shape, generator=generator)
    target = torch.randint(num_classes, shape, generator=generator)
    ignored = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return prediction, target.masked_fill(ignored, 255), num_classes


def by_definition(prediction, target, num_classes):
    """Oracle: one pixel at a time, in plain Python."""
    counts = np.zeros((len(target), num_classes, 3), dtype=np.int64)
    for n, y, x in np.ndindex(*target.shape):
        guess, truth = int(prediction[n, y, x]), int(target[n, y, x])
        if truth == 255:
            continue
        if guess == truth:
            counts[n, guess, 0] += 1
        else:
            counts[n, guess, 1] += 1
            counts[n, truth, 2] += 1
    return torch.from_numpy(counts)


@given(labels())
def test_counts_agree_with_the_definition(case):
    prediction, target, num_classes = case
    counts = region_counts(prediction, target, num_classes=num_classes)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, by_definition(*case))


@given(labels())
def test_ignored_pixels_cannot_matter(case):
    prediction, target, num_classes = case
    spoilt = prediction.masked_fill(target == 255, 99)
    counts = [region_counts(x, target, num_classes=num_classes) for x in (spoilt, prediction)]
    assert torch.equal(*counts)


@given(labels())
def test_pooled_per_class_iou_agrees_with_torchmetrics(case):
    prediction, target, num_classes = case
    metric = RegionIoU(num_classes=num_classes)
    metric.update(prediction, target)
    theirs = JaccardIndex(
        task="multiclass", num_classes=num_classes, ignore_index=255, average="none"
    )
    expected = theirs(prediction, target)
    ours = metric.compute().per_class.nan_to_num(nan=0.0)  # absent is 0 there, NaN here
    torch.testing.assert_close(ours.float(), expected)


@given(labels())
def test_dice_follows_from_iou(case):
    prediction, target, num_classes = case
    counts = region_counts(prediction, target, num_classes=num_classes)
    torch.testing.assert_close(dice(counts), 2 * iou(counts) / (1 + iou(counts)), equal_nan=True)


@given(labels())
def test_streaming_and_merging_equal_one_batch(case):
    prediction, target, num_classes = case
    whole = RegionIoU(num_classes=num_classes)
    whole.update(prediction, target)
    parts = [RegionIoU(num_classes=num_classes) for _ in range(2)]
    for index in range(len(target)):
        parts[index % 2].update(prediction[index : index + 1], target[index : index + 1])
    parts[0].merge_state(parts[1])
    for got, want in zip(parts[0].compute(), whole.compute(), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_both_averages_by_hand():
    target = torch.tensor([[[1, 1, 1, 1]], [[1, 0, 0, 0]], [[0, 0, 0, 0]], [[255] * 4]])
    prediction = torch.tensor([[[1, 1, 1, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 1, 0]]])
    metric = RegionIoU()
    metric.update(prediction, target)
    scores = metric.compute()
    assert scores.pooled == 3 / 6  # 3 of 4, and 0 of 2
    assert scores.per_image == (3 / 4 + 0) / 2  # the third has no foreground, the fourth no pixel
    assert (scores.num_images, scores.num_scored) == (4, 2)


def test_mean_over_classes_leaves_absent_classes_out():
    metric = RegionIoU(num_classes=5)
    metric.update(torch.tensor([[[0, 2, 2, 2]]]), torch.tensor([[[0, 0, 2, 2]]]))
    scores = metric.compute()
    assert scores.per_class.isnan().tolist() == [False, True, False, True, True]
    torch.testing.assert_close(float(scores.pooled), (1 / 2 + 2 / 3) / 2)
    assert scores.per_image == scores.pooled


def test_nothing_seen_is_nan():
    with pytest.warns(UserWarning, match="compute"):
        scores = RegionIoU().compute()
    assert scores.pooled.isnan()
    assert scores.per_image.isnan()


ZEROS = torch.zeros(1, 2, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("prediction", "target", "num_classes", "message"),
    [
        (ZEROS[:, :1], ZEROS, 2, r"prediction: want the target's shape \(1, 2, 2\)"),
        (ZEROS[0], ZEROS[0], 2, r"target: want \(N, H, W\)"),
        (ZEROS.float(), ZEROS, 2, "threshold or argmax"),
        (ZEROS + 2, ZEROS, 2, r"prediction: label 2 at index \(0, 0, 0\) is outside 0..1"),
        (ZEROS, ZEROS - 1, 2, "target: label -1"),
        (ZEROS, ZEROS, 1, "num_classes: want at least 2"),
    ],
)
def test_errors_name_the_argument(prediction, target, num_classes, message):
    with pytest.raises(SegmendError, match=message):
        region_counts(prediction, target, num_classes=num_classes)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32])
def test_any_whole_dtype(dtype):
    one = torch.ones(1, 2, 2, dtype=dtype)
    assert iou(region_counts(one, one))[0, 1] == 1


def test_the_voc_protocol_gives_the_published_values():
    golden = np.load(Path(__file__).parents[1] / "golden" / "contour_miou.npz")
    metric = RegionIoU(num_classes=21)
    for i in range(3):
        metric.update(*(torch.from_numpy(golden[f"{name}_{i}"])[None] for name in ("pred", "gt")))
    per_class = metric.compute().per_class
    zeros = class_mean(per_class, absent="zero").mean
    assert 100 * float(zeros) == pytest.approx(golden["miou_percent"].item(), abs=1e-6)
    skipped = class_mean(per_class)
    wanted = golden["miou_percent_present_only"].item()
    assert 100 * float(skipped.mean) == pytest.approx(wanted, abs=1e-6)
    np.testing.assert_allclose(100 * per_class.nan_to_num(0.0), golden["iou_percent"], atol=1e-6)
    assert skipped.num_present + len(skipped.absent) == 21
