"""Boundary F against pixel loops, all pairwise distances, scikit-image and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from skimage.morphology import dilation, disk
from test_region import labels

from segmend.errors import SegmendError
from segmend.metrics import BoundaryF, boundary_counts, boundary_f
from segmend.metrics.contour import boundary, dilate


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


def near(points, others, radius):
    return sum(any(math.dist(p, q) <= radius for q in others) for p in points)


@given(labels(), st.sampled_from([0.0, 0.008, 0.2, 0.4]))
def test_counts_agree_with_the_definition(case, tolerance):
    prediction, target, num_classes = case
    counts = boundary_counts(prediction, target, num_classes=num_classes, tolerance=tolerance)
    assert torch.equal(counts, counts_by_definition(*case, tolerance))


@given(st.integers(0, 9), st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6))
def test_dilation_is_the_disk_of_scikit_image_and_of_a_distance_transform(
    radius, height, width, seed
):
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.03
    grown = dilate(mask, radius).numpy()
    assert np.array_equal(grown, dilation(mask.numpy(), disk(radius)))
    if mask.any():
        assert np.array_equal(grown, distance_transform_edt(~mask.numpy()) <= radius)


def davis_boundary(mask):
    """Oracle: the boundary map as the DAVIS toolkit defines it, image edges included."""
    east, south, corner = (np.zeros_like(mask) for _ in range(3))
    east[:, :-1], south[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ east) | (mask ^ south) | (mask ^ corner)
    edge[-1], edge[:, -1] = mask[-1] ^ east[-1], mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12))
def test_boundary_is_that_of_davis(seed, height, width):
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    ours = boundary(mask, torch.ones_like(mask)).numpy()
    # its last column compares downwards only and its last row to the right only, as ours
    assert np.array_equal(ours, davis_boundary(mask.numpy()))


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
