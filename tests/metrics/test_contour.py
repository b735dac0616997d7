"""Boundary F against pixel loops, all pairwise distances and the published code's values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_region import labels

from segmend.errors import SegmendError
from segmend.metrics import BoundaryF, boundary_counts, boundary_f, class_mean


def boundary_by_definition(region, valid):
    """Oracle: points whose right, lower or lower-right neighbour is on the other side."""
    height, width = region.shape
    points = []
    for y, x in np.ndindex(height, width):
        for below, right in ((y, x + 1), (y + 1, x), (y + 1, x + 1)):
            if below == height or right == width or not (valid[y, x] and valid[below, right]):
                continue
            if region[y, x] != region[below, right]:
                points.append((y, x))
                break
    return points


def counts_by_definition(prediction, target, num_classes, tolerance):
    """Oracle: every boundary pixel against every other, no image operation."""
    radius = math.ceil(tolerance * math.hypot(*target.shape[-2:]))
    rows = []
    for guess, truth in zip(prediction.numpy(), target.numpy(), strict=True):
        valid = truth != 255
        for c in range(num_classes):
            ours, theirs = (boundary_by_definition(x == c, valid) for x in (guess, truth))
            rows.append([near(ours, theirs, radius), len(ours)])
            rows[-1] += [near(theirs, ours, radius), len(theirs)]
    return torch.tensor(rows).view(len(target), num_classes, 4)


GOLDEN = Path(__file__).parents[1] / "golden" / "contour_miou.npz"


def test_published_protocol_gives_the_published_values():
    golden = np.load(GOLDEN)
    metric, rows = BoundaryF(num_classes=21, void="background"), []
    for i in range(3):
        pair = [torch.from_numpy(golden[f"{name}_{i}"])[None] for name in ("pred", "gt")]
        rows.append(boundary_counts(*pair, num_classes=21, void="background"))
        metric.update(*pair)
    # stored as matched predicted, matched target, predicted, target
    assert torch.equal(
        torch.cat(rows), torch.from_numpy(golden["counts"])[..., [0, 2, 1, 3]].long()
    )
    per_class = metric.compute().per_class
    for absent, name in (("one", "mean_fscore"), ("skip", "mean_fscore_present_only")):
        found = class_mean(per_class, background=0, absent=absent)
        assert found.mean == pytest.approx(golden[name].item(), abs=1e-6)
    present = set(golden["classes_present"].tolist())
    assert found.num_present == len(present)
    assert found.absent == tuple(sorted(set(range(1, 21)) - present))


@given(labels())
def test_void_as_background_is_a_target_without_void(case):
    prediction, target, num_classes = case
    counts = boundary_counts(prediction, target, num_classes=num_classes, void="background")
    filled = target.masked_fill(target == 255, 0)
    assert torch.equal(counts, counts_by_definition(prediction, filled, num_classes, 0.008))


@pytest.mark.parametrize("num_classes", [9, 40, 300])
def test_many_classes_of_which_many_are_present(num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    prediction, target = torch.randint(num_classes, (2, 1, 9, 8), generator=generator)
    target[0, :2, :5] = 255
    if num_classes > 255:
        target[target == 255] = -7
    counts = boundary_counts(
        prediction, target, num_classes=num_classes, tolerance=0.15,
        ignore_index=-7 if num_classes > 255 else 255,
    )  # fmt: skip
    target[target == -7] = 255  # the oracle's only ignored label
    if num_classes < 256:
        oracle = counts_by_definition(prediction, target, num_classes, 0.15)
        assert torch.equal(counts, oracle)
    else:
        relabelled, inverse = torch.unique(torch.stack((prediction, target)), return_inverse=True)
        keep = relabelled != 255
        inverse[1][target == 255] = 255
        oracle = counts_by_definition(*inverse, len(relabelled), 0.15)
        assert torch.equal(counts[:, relabelled[keep]], oracle[:, keep])


def near(points, others, radius):
    return sum(any(math.dist(p, q) <= radius for q in others) for p in points)


@given(labels(), st.sampled_from([0.0, 0.008, 0.2, 0.4]))
def test_counts_agree_with_the_definition(case, tolerance):
    prediction, target, num_classes = case
    counts = boundary_counts(prediction, target, num_classes=num_classes, tolerance=tolerance)
    assert torch.equal(counts, counts_by_definition(*case, tolerance))


def square(top, left, size=40, side=100):
    mask = torch.zeros(1, side, side, dtype=torch.long)
    mask[:, top : top + size, left : left + size] = 1
    return mask


def test_a_shift_within_the_tolerance_is_perfect_and_beyond_is_not():
    # a diagonal of 141.4 pixels, so a radius of ceil(1.13) = 2
    assert boundary_f(boundary_counts(square(32, 30), square(30, 30)))[0, 1] == 1
    assert boundary_f(boundary_counts(square(33, 30), square(30, 30)))[0, 1] < 1


def test_empty_cases():
    full, empty = square(30, 30), torch.zeros(1, 100, 100, dtype=torch.long)
    assert boundary_f(boundary_counts(empty, empty))[0, 1].isnan()
    assert boundary_f(boundary_counts(full, empty))[0, 1] == 0
    assert boundary_f(boundary_counts(empty, full))[0, 1] == 0
    assert boundary_f(boundary_counts(full, torch.full_like(full, 255)))[0, 1].isnan()
    far = boundary_counts(square(0, 0, 10), square(80, 80, 10))
    assert boundary_f(far)[0, 1] == 0


@given(labels())
def test_ignored_pixels_cannot_matter(case):
    prediction, target, num_classes = case
    spoilt = prediction.masked_fill(target == 255, 99)
    counts = [boundary_counts(x, target, num_classes=num_classes) for x in (spoilt, prediction)]
    assert torch.equal(*counts)


@given(labels())
def test_swapping_swaps_precision_and_recall(case):
    prediction, target, num_classes = case
    target = target.masked_fill(target == 255, 0)
    ahead = boundary_counts(prediction, target, num_classes=num_classes)
    back = boundary_counts(target, prediction, num_classes=num_classes)
    assert torch.equal(ahead, back[..., [2, 3, 0, 1]])
    torch.testing.assert_close(boundary_f(ahead), boundary_f(back), equal_nan=True)


@given(labels())
def test_f_is_the_harmonic_mean(case):
    prediction, target, num_classes = case
    counts = boundary_counts(prediction, target, num_classes=num_classes).double()
    precision, recall = counts[..., 0] / counts[..., 1], counts[..., 2] / counts[..., 3]
    expected = 2 * precision * recall / (precision + recall)
    some = ~expected.isnan()
    torch.testing.assert_close(boundary_f(counts)[some], expected[some])


def test_metric_pools_and_averages_and_merges():
    pairs = [(square(34, 30), square(30, 30)), (square(10, 10, 12), square(10, 10, 12))]
    empty = torch.zeros(1, 100, 100, dtype=torch.long)
    pairs.append((empty, empty))
    parts = [BoundaryF(), BoundaryF()]
    for index, pair in enumerate(pairs):
        parts[index % 2].update(*pair)
    parts[0].merge_state(parts[1])
    scores = parts[0].compute()
    counts = torch.cat([boundary_counts(*pair) for pair in pairs])
    assert scores.pooled == boundary_f(counts.sum(0))[1]
    assert scores.per_image == boundary_f(counts)[:2, 1].mean()
    assert (scores.num_images, scores.num_scored) == (3, 2)


def test_negative_tolerance_is_refused():
    with pytest.raises(SegmendError, match="tolerance"):
        boundary_counts(square(0, 0), square(0, 0), tolerance=-0.1)


def test_an_unknown_void_is_refused():
    with pytest.raises(SegmendError, match="void: want 'ignore' or 'background', got 'skip'"):
        boundary_counts(square(0, 0), square(0, 0), void="skip")
