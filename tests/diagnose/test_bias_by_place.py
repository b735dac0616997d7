"""Offsets by position that other images chose, and the test of the map of signed errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from segmend.diagnose.bias import fit_places, spatial_bias
from segmend.diagnose.case import Case
from segmend.diagnose.frame import Frame, frame_of, region_of
from segmend.diagnose.oracles.classes import against_background
from segmend.diagnose.oracles.levels import levels_for
from segmend.diagnose.positions import PlaceTable, signed_errors
from segmend.diagnose.scoring import pooled_score


def smooth_errors(seed: int, images: int = 20, cells: int = 6) -> np.ndarray:
    """Maps without a direction whose cells hang together, stronger in the middle."""
    noise = np.random.default_rng(seed).normal(size=(images, cells, cells))
    maps = ndimage.gaussian_filter(noise, (0, 1.0, 1.0))
    maps *= 1 + np.hanning(cells)[:, None] * np.hanning(cells)
    return maps.reshape(images, -1)


def p_value(errors: np.ndarray, seed: int) -> float:
    pixels = np.full_like(errors, 10.0)
    found = spatial_bias(errors, pixels, offset=None, permutations=199, seed=seed)
    return found.p_value


def test_p_values_on_noise_are_uniform_enough() -> None:
    found = np.array([p_value(smooth_errors(seed), seed) for seed in range(200)])
    # Of 200 uniform values the mean has a deviation of .02, the share below .05 one of .015.
    assert abs(found.mean() - 0.5) < 0.08
    assert (found <= 0.05).mean() < 0.11
    assert (found <= 0.5).mean() == pytest.approx(0.5, abs=0.14)


def test_a_shared_place_is_found_and_a_shared_level_is_not() -> None:
    shifted = smooth_errors(0)
    shifted[:, 7] += 2.0
    assert p_value(shifted, 0) == pytest.approx(1 / 200)
    assert p_value(smooth_errors(1) + 5.0, 0) > 0.05


def test_spread_is_that_of_the_map_when_frames_are_whole() -> None:
    errors, pixels = smooth_errors(3), np.full((20, 36), 10.0)
    found = spatial_bias(errors, pixels, offset=np.zeros(36), permutations=9, seed=0)
    assert found.spread == pytest.approx(float(np.std(found.error)))
    assert np.allclose(np.array(found.error).reshape(-1), errors.sum(0) / 200)
    assert np.shape(found.offset) == (6, 6)
    again = spatial_bias(errors, pixels, offset=np.zeros(36), permutations=9, seed=0)
    assert again == found


def test_a_single_image_or_no_error_is_no_evidence() -> None:
    assert p_value(np.zeros((4, 9)), 0) == 1.0
    assert p_value(smooth_errors(0, images=1), 0) == 1.0


def frame_with_map(seed: int, bias: np.ndarray, num_classes: int) -> tuple[Frame, torch.Tensor]:
    """Blobs; logits that see them through noise, and a bias by place."""
    generator = np.random.default_rng(seed)
    shape = bias.shape
    fields = ndimage.gaussian_filter(generator.normal(size=(num_classes, *shape)), (0, 4, 4))
    fields /= fields.std()
    noise = 0.1 * generator.normal(size=fields.shape)
    logits = torch.from_numpy(4 * (fields + noise)).float()
    logits[1:] += torch.from_numpy(bias).float()
    target = torch.from_numpy(fields.argmax(0))
    target[0, :5] = 255
    probs = logits.softmax(0)
    prediction = probs.argmax(0)
    case = Case("0", prediction, target, target != 255)
    return frame_of(case, num_classes), probs[1:] if num_classes == 2 else probs


def table_of(
    bias: np.ndarray, images: int, num_classes: int
) -> tuple[PlaceTable, np.ndarray, list[tuple[Frame, np.ndarray, np.ndarray]]]:
    levels = levels_for(0.5)
    table = PlaceTable(images, num_classes, 4, levels)
    counts, seen = [], []
    for index in range(images):
        frame, probs = frame_with_map(index, bias, num_classes)
        scores, leader = against_background(frame, probs)
        level = levels.of(scores, frame.prediction != 0)
        table.add(index, frame, level, leader)
        counts.append(region_of(frame.confusion))
        seen.append((frame, scores, leader))
    return table, np.stack(counts), seen


@pytest.mark.parametrize("num_classes", [2, 4])
def test_offsets_that_others_chose_mend_a_shared_bias_and_not_noise(num_classes: int) -> None:
    ramp = np.repeat(np.linspace(-4, 4, 32)[:, None], 32, axis=1)
    table, counts, _ = table_of(ramp, 8, num_classes)
    biased = fit_places(table, counts)
    assert np.array_equal(biased.base.sum(0), counts.sum(0))
    assert pooled_score(biased.mended) - pooled_score(biased.base) > 0.05
    offset = biased.offset.reshape(4, 4)
    assert (offset[0] > 1).all()
    assert (offset[-1] < -1).all()
    table, counts, _ = table_of(0 * ramp, 8, num_classes)
    fair = fit_places(table, counts)
    assert pooled_score(fair.mended) - pooled_score(fair.base) < 0.005


@pytest.mark.parametrize("num_classes", [2, 4])
def test_counts_are_those_of_the_map_with_the_offsets_added(num_classes: int) -> None:
    ramp = np.repeat(np.linspace(-4, 4, 32)[:, None], 32, axis=1)
    table, counts, seen = table_of(ramp, 2, num_classes)
    fitted = fit_places(table, counts)
    # Two images: each takes what the other chose; a table with the other alone says what.
    for index, (frame, scores, leader) in enumerate(seen):
        alone = PlaceTable(1, num_classes, 4, levels_for(0.5))
        other, other_scores, other_leader = seen[1 - index]
        level = levels_for(0.5).of(other_scores, other.prediction != 0)
        alone.add(0, other, level, other_leader)
        chosen = fit_places(alone, counts[1 - index][None]).offset.reshape(4, 4)
        with np.errstate(divide="ignore"):
            logits = np.log(scores.astype(np.float64)) - np.log1p(-scores.astype(np.float64))
        added = logits + np.kron(chosen, np.ones((8, 8)))
        near = np.abs(added) < 0.18  # a level is a quarter of an octave wide at most
        labels = np.where(added > 0, leader, 0)
        mended = Case(
            "0",
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(np.where(frame.valid, frame.target, 255).astype(np.int64)),
            torch.from_numpy(frame.valid),
        )
        found = region_of(frame_of(mended, num_classes).confusion)
        assert np.abs(found - fitted.mended[index]).max() <= near.sum()


def test_signed_errors_by_cell() -> None:
    prediction, target = torch.zeros(4, 6).long(), torch.zeros(4, 6).long()
    prediction[:2, :3] = 1
    target[2:, 5] = 1
    target[0, 0] = 255
    found = signed_errors(frame_of(Case("0", prediction, target, target != 255), 2), 2)
    assert found[0].tolist() == [5.0, 0.0, 0.0, -2.0]
    assert found[1].tolist() == [5.0, 6.0, 6.0, 6.0]
