"""Paired bootstrap against a loop over the same resamples, SciPy, and its own coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from segmend.errors import SegmendError
from segmend.metrics import (
    boundary_counts,
    boundary_f_difference,
    iou,
    mean_iou_difference,
    paired,
    paired_bootstrap,
    pooled_iou_difference,
)


def rows(*shape, seed=0, high=50):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


def by_definition(base, other, statistic, *, num_resamples, seed, draw_seeds):
    """Oracle: one resample at a time, by picking rows; the random indices are the same."""
    generator = torch.Generator().manual_seed(seed)
    num_seeds, num_images = base.shape[:2]
    images = torch.randint(num_images, (num_resamples, num_images), generator=generator)
    seeds = [list(range(num_seeds))] * num_resamples
    if draw_seeds:
        drawn = torch.randint(num_seeds, (num_resamples, num_seeds), generator=generator)
        seeds = drawn.tolist()
    differences = []
    for picked, chosen in zip(images.tolist(), seeds, strict=True):
        gaps = [
            float(statistic(other[s][picked].double().sum(0)))
            - float(statistic(base[s][picked].double().sum(0)))
            for s in chosen
        ]
        differences.append(sum(gaps) / len(gaps))
    return np.quantile(differences, [0.025, 0.975])


@given(st.integers(1, 3), st.integers(1, 12), st.booleans(), st.integers(0, 999))
def test_limits_agree_with_a_loop(num_seeds, num_images, draw_seeds, seed):
    base, other = rows(num_seeds, num_images, 2, seed=seed) + 1, rows(num_seeds, num_images, 2) + 1
    got = paired_bootstrap(
        base, other, statistic=ratio, num_resamples=40, resample_seeds=draw_seeds, seed=seed
    )
    want = by_definition(base, other, ratio, num_resamples=40, seed=seed, draw_seeds=draw_seeds)
    np.testing.assert_allclose([got.low, got.high], want, rtol=1e-9, atol=1e-12)
    whole = ratio(other.double().sum(1)) - ratio(base.double().sum(1))
    assert got.difference == pytest.approx(float(whole.mean()))
    assert got.difference == pytest.approx(got.other - got.base)


def test_blocks_do_not_change_the_result_beyond_the_draw(monkeypatch):
    base, other = rows(200, 2, seed=1) + 1, rows(200, 2, seed=2) + 1
    whole = paired_bootstrap(base, other, statistic=ratio)
    monkeypatch.setattr(paired, "_CHUNK_CELLS", 200 * 37)
    blocks = paired_bootstrap(base, other, statistic=ratio)
    assert whole == blocks  # the generator deals the same numbers in blocks


def test_agrees_with_scipy():
    base, other = rows(80, 2, seed=1) + 1, rows(80, 2, seed=2) + 1
    got = paired_bootstrap(base, other, statistic=ratio, num_resamples=8000)

    def gap(a, b, c, d, axis=-1):
        return a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)

    columns = [x.double().numpy() for x in (*other.T, *base.T)]
    theirs = bootstrap(
        columns, gap, paired=True, n_resamples=8000, method="percentile", rng=1
    ).confidence_interval
    width = got.high - got.low
    assert got.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert got.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    truth = 0.02
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for trial in range(200):
        hard = torch.rand(60, generator=generator)
        noise = 0.1 * torch.randn(60, generator=generator)
        base = torch.stack((hard, torch.ones(60)), -1)
        other = torch.stack((hard + truth + noise, torch.ones(60)), -1)
        got = paired_bootstrap(base, other, statistic=ratio, num_resamples=300, seed=trial)
        hits += got.low <= truth <= got.high
    # 95% of 200 is 190; four standard deviations are 12
    assert 178 <= hits <= 199


def test_pairing_narrows_the_interval():
    base = rows(100, 2, 3, seed=5)
    better = base.clone()
    better[:, :, 0] += 1
    paired_width = pooled_iou_difference(base, better)
    unpaired = pooled_iou_difference(base, better[torch.randperm(100)])
    assert 0 < paired_width.low <= paired_width.difference <= paired_width.high
    assert paired_width.high - paired_width.low < 0.2 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize("shape", [(30, 2, 3), (30, 4, 3), (3, 30, 2, 3)])
def test_iou_differences_are_those_of_the_tables(shape):
    base, other = rows(*shape, seed=1), rows(*shape, seed=2)
    seeds = base.ndim == 4
    pooled = [iou(x.double().sum(-3)) for x in (base, other)]
    images = [iou(x) for x in (base, other)]
    pick = (lambda x: x[..., 1]) if shape[-2] == 2 else (lambda x: x.mean(-1))
    got = pooled_iou_difference(base, other)
    assert got.base == pytest.approx(float(pick(pooled[0]).mean()))
    assert got.other == pytest.approx(float(pick(pooled[1]).mean()))
    got = mean_iou_difference(base, other)
    assert got.base == pytest.approx(float(pick(images[0]).mean()))
    assert got.num_seeds == (3 if seeds else 1)


def test_images_without_a_score_count_in_neither_sum_nor_number():
    base = torch.tensor([[[9, 0, 0], [0, 0, 0]], [[0, 0, 0], [3, 1, 0]]])
    other = torch.tensor([[[9, 0, 0], [0, 0, 0]], [[0, 0, 0], [4, 0, 0]]])
    got = mean_iou_difference(base, other, num_resamples=200)
    assert (got.base, got.other, got.difference) == (0.75, 1.0, 0.25)
    # resamples that drew only the image without a score are left out
    assert (got.low, got.high) == (0.25, 0.25)


def test_all_without_a_score_is_nan():
    got = mean_iou_difference(torch.zeros(4, 2, 3), torch.zeros(4, 2, 3), num_resamples=5)
    assert got.difference != got.difference
    assert got.low != got.low


def test_boundary_difference():
    target = torch.zeros(2, 20, 20, dtype=torch.long)
    target[:, 5:15, 5:15] = 1
    base, other = target.roll(4, 1), target.roll(0, 1)
    counts = [boundary_counts(x, target) for x in (base, other)]
    got = boundary_f_difference(*counts, num_resamples=50)
    assert got.other == 1.0
    assert 0 < got.low <= got.difference <= got.high


def test_seed_repeats_and_changes():
    base, other = rows(50, 2, seed=1) + 1, rows(50, 2, seed=2) + 1
    first, again, third = (
        paired_bootstrap(base, other, statistic=ratio, num_resamples=100, seed=s) for s in (7, 7, 8)
    )
    assert first == again
    assert first.low != third.low


ONES = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("base", "other", "num_resamples", "level", "message"),
    [
        (ONES, ONES[:3], 10, 0.95, "same images"),
        (ONES[:0], ONES[:0], 10, 0.95, "same images"),
        (ONES[0], ONES[0], 10, 0.95, "same images"),
        (ONES, ONES, 0, 0.95, "num_resamples"),
        (ONES, ONES, 10, 1.0, "level"),
    ],
)
def test_bad_input_is_refused(base, other, num_resamples, level, message):
    with pytest.raises(SegmendError, match=message):
        paired_bootstrap(base, other, statistic=ratio, num_resamples=num_resamples, level=level)


def test_wrong_counts_are_refused():
    with pytest.raises(SegmendError, match=r"counts: want \(N, C, 3\)"):
        pooled_iou_difference(torch.ones(4, 2, 4), torch.ones(4, 2, 4))
    with pytest.raises(SegmendError, match=r"counts: want \(N, C, 4\)"):
        boundary_f_difference(torch.ones(4, 2, 3), torch.ones(4, 2, 3))
