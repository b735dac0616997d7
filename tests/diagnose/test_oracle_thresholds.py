"""Thresholds of images and patches, against trying every one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmend.diagnose.oracles.levels import levels_for
from segmend.diagnose.oracles.thresholds import (
    RATES,
    choose,
    merge_patches,
    patch_histogram,
    patch_places,
)


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """An 8-bit map as probabilities, truth, valid pixels, the base's threshold."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
    stored = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 60, 128, 200, 255])))
    truth = draw(hnp.arrays(bool, shape))
    valid = draw(hnp.arrays(bool, shape, elements=st.sampled_from([True] * 5 + [False])))
    threshold = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9]))
    return stored.astype(np.float32) / np.float32(255), truth, valid, threshold


@pytest.mark.parametrize("threshold", [0.0, 0.003, 0.37, 0.5, 0.99])
def test_levels_keep_order_and_the_base(threshold: float) -> None:
    scores = np.sort(np.random.default_rng(0).random(5000).astype(np.float32)) ** 3
    levels = levels_for(threshold)
    found = levels.of(scores, scores > threshold)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() < levels.count
    assert np.array_equal(found >= levels.base, scores > threshold)
    assert (np.diff(levels.logits[1:-1]) >= 0).all()
    assert np.isfinite(levels.logits[1:-1]).all()
    assert len(levels.logits) == levels.count + 1


def test_every_value_of_an_8_bit_map_has_a_level_of_its_own() -> None:
    scores = np.arange(256, dtype=np.float32) / np.float32(255)
    levels = levels_for(0.5)
    assert len(np.unique(levels.of(scores, scores > 0.5))) == 256


def test_a_given_mask_wins_over_its_map() -> None:
    levels = levels_for(0.5)
    found = levels.of(np.array([0.9, 0.1], np.float32), np.array([False, True]))
    assert (found >= levels.base).tolist() == [False, True]


def patches_of(shape: tuple[int, ...], size: int) -> list[np.ndarray]:
    """Masks of the patches, row by row."""
    found = []
    for top, left in product(range(0, shape[0], size), range(0, shape[1], size)):
        mask = np.zeros(shape, bool)
        mask[top : top + size, left : left + size] = True
        found.append(mask)
    return found


def cuts_of(scores: np.ndarray) -> list[float]:
    return [-1.0, *sorted(set(scores.reshape(-1).tolist()))]


@settings(max_examples=50)
@given(maps(), st.sampled_from([3, 4, 12]))
def test_each_patch_takes_its_best_cut_at_every_rate(drawn: tuple, size: int) -> None:
    scores, truth, valid, threshold = drawn
    levels = levels_for(threshold)
    level = levels.of(scores, scores > threshold)
    choice = choose(patch_histogram(level, truth, valid, size, levels.count), levels)
    for rung, rate in enumerate(RATES):
        best = 0.0
        for patch in patches_of(scores.shape, size):
            inside = patch & valid
            values = [
                (inside & truth & (scores > cut)).sum()
                - float(rate) * (inside & ~truth & (scores > cut)).sum()
                for cut in cuts_of(scores)
            ]
            best += max(values)
        tp, fp = choice.counts[rung]
        assert tp - float(rate) * fp == pytest.approx(best, abs=1e-4)


@settings(max_examples=40)
@given(maps())
def test_the_ladder_reaches_the_best_pooled_iou_within_its_bound(drawn: tuple) -> None:
    scores, truth, valid, threshold = drawn
    scores, truth, valid = scores[:6, :6], truth[:6, :6], valid[:6, :6]
    positives = int((truth & valid).sum())
    if positives == 0:
        return
    levels = levels_for(threshold)
    level = levels.of(scores, scores > threshold)
    choice = choose(patch_histogram(level, truth, valid, 3, levels.count), levels)
    options = []
    for patch in patches_of(scores.shape, 3):
        inside = patch & valid
        above = [inside & (scores > cut) for cut in cuts_of(scores)]
        options.append({(int((m & truth).sum()), int((m & ~truth).sum())) for m in above})
    sums = [np.array(list(combination)).sum(0) for combination in product(*options)]
    brute = max(tp / (positives + fp) for tp, fp in sums)
    ladder = max(tp / (positives + fp) for tp, fp in choice.counts)
    # At a rate r away from the optimum the loss is at most r * (difference in fp) / (P + fp).
    bound = 0.12 * max(fp for _, fp in sums) / positives
    assert brute - bound - 1e-9 <= ladder <= brute + 1e-9


@settings(max_examples=10)
@given(maps(), st.sampled_from([3, 8]))
def test_held_out_cuts_come_from_the_other_half(drawn: tuple, size: int) -> None:
    scores, truth, valid, threshold = drawn
    levels = levels_for(threshold)
    level = levels.of(scores, scores > threshold)
    choice = choose(patch_histogram(level, truth, valid, size, levels.count), levels)
    half = (np.arange(scores.shape[0])[:, None] // 8 + np.arange(scores.shape[1]) // 8) % 2
    rung = 7
    tp = fp = 0
    for index, patch in enumerate(patches_of(scores.shape, size)):
        for side in (0, 1):
            mine = patch & valid & (half == side)
            called = mine & (level >= choice.held_out_cuts[index, side, rung])
            tp += int((called & truth).sum())
            fp += int((called & ~truth).sum())
            other = patch & valid & (half != side)
            values = [
                (other & truth & (level >= cut)).sum()
                - float(RATES[rung]) * (other & ~truth & (level >= cut)).sum()
                for cut in sorted(
                    {0, levels.count, levels.base, *level.ravel(), *(level.ravel() + 1)}
                )
            ]
            own = level >= choice.held_out_cuts[index, side, rung]
            value = (other & truth & own).sum() - float(RATES[rung]) * (other & ~truth & own).sum()
            assert value == pytest.approx(max(values), abs=1e-4)
    assert choice.held_out[rung].tolist() == [tp, fp]


@given(maps())
def test_patches_without_errors_are_left_alone(drawn: tuple) -> None:
    scores, _, valid, threshold = drawn
    levels = levels_for(threshold)
    level = levels.of(scores, scores > threshold)
    histogram = patch_histogram(level, scores > threshold, valid, 4, levels.count)
    choice = choose(histogram, levels)
    assert (choice.cuts == levels.base).all()
    assert (choice.held_out_cuts == levels.base).all()
    assert (choice.counts[:, 1] == 0).all()


@given(maps(), st.sampled_from([2, 3]))
def test_merged_patches_are_larger_patches(drawn: tuple, times: int) -> None:
    scores, truth, valid, threshold = drawn
    levels = levels_for(threshold)
    level = levels.of(scores, scores > threshold)
    small = patch_histogram(level, truth, valid, 2, levels.count)
    large = patch_histogram(level, truth, valid, 2 * times, levels.count)
    assert np.array_equal(merge_patches(small, times), large)


def test_places_of_a_volume() -> None:
    places, grid = patch_places((4, 4, 6), 4)
    assert grid == (1, 1, 2)
    assert (places // 2)[0, 0].tolist() == [0, 0, 0, 0, 1, 1]
