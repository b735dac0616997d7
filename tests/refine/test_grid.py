"""The published search: equal to the authors' own values, and to its description in loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.refine.grid import grid_thresholds
from segmend.refine.patch_masks import apply_thresholds, patch_iou
from segmend.refine.pseudo_labels import patch_pseudo_labels
from segmend.refine.thresholds import best_thresholds

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    *(("512", side) for side in (512, 256, 128, 64)),
    *(("512_road", side) for side in (512, 128, 64)),
    *(("64", side) for side in (64, 32, 16)),
]


def golden(name, side):
    with np.load(GOLDEN / f"prn_pseudolabel_{name}.npz") as file:
        probs = torch.from_numpy(file["prob"])[None]
        target = torch.from_numpy(file["gt"].astype(np.int64))[None]
        mask = np.unpackbits(file[f"pseudo_{side}"])[: probs.numel()].reshape(probs.shape)
        return (
            probs,
            target,
            file[f"th_{side}"],
            mask,
            file[f"iou_grid_{side}"],
            file[f"iou_{side}"],
        )


@pytest.mark.parametrize(("name", "side"), CASES)
def test_thresholds_and_masks_are_the_authors(name, side):
    probs, target, thresholds, mask, iou_grid, iou = golden(name, side)
    found = grid_thresholds(probs, target, patch_size=side)
    np.testing.assert_array_equal(found[0].numpy(), thresholds)
    ours = apply_thresholds(probs, found, patch_size=side)
    np.testing.assert_array_equal(ours.numpy(), mask)
    reached = patch_iou(ours, target, patch_size=side, epsilon=1.0)
    np.testing.assert_allclose(reached[0].numpy(), iou_grid.max(2), rtol=0, atol=1e-6)
    merged = patch_iou(ours, target, patch_size=tuple(probs.shape[1:]), epsilon=1.0)
    assert merged.item() == pytest.approx(float(iou), abs=1e-6)


@pytest.mark.parametrize(("name", "side"), CASES)
def test_exact_thresholds_reach_at_least_the_authors_iou(name, side):
    probs, target, _, mask, iou_grid, _ = golden(name, side)
    smoothed = best_thresholds(probs, target, patch_size=side, epsilon=1.0)
    ours = apply_thresholds(probs, smoothed, patch_size=side)
    reached = patch_iou(ours, target, patch_size=side, epsilon=1.0)[0].numpy()
    assert (reached >= iou_grid.max(2) - 1e-7).all()
    labels = patch_pseudo_labels(probs, target, patch_size=side)
    theirs = torch.from_numpy(mask).bool()
    plain = [patch_iou(m, target, patch_size=side) for m in (labels == 1, theirs)]
    assert (plain[0] >= plain[1]).all()


def search(probs, target, side, steps, epsilon):
    """The description of the search, in loops."""
    height, width = probs.shape
    found = {}
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = slice(top, top + side), slice(left, left + side)
            valid = target[window] != 255
            scores, truth = probs[window][valid], target[window][valid]
            best = -1.0
            for t in range(1, steps + 1):
                mask = scores > np.float32(t / steps)
                hits, union = (truth & mask).sum(), (truth | mask).sum()
                iou = 1.0 if union + epsilon == 0 else (hits + epsilon) / (union + epsilon)
                if iou > best:
                    best, found[top // side, left // side] = iou, np.float32(t / steps)
            if not valid.any():
                found[top // side, left // side] = np.nan
    return found


@given(st.integers(0, 10_000), st.integers(1, 25), st.sampled_from([0.0, 1.0]))
def test_equals_the_description_with_borders_and_ignored_pixels(seed, steps, epsilon):
    draw = np.random.default_rng(seed)
    probs = draw.random((5, 9), dtype=np.float32)
    # Scores on the thresholds themselves too: there `>` and `>=` differ.
    on = (draw.integers(0, steps + 1, (5, 9)) / steps).astype(np.float32)
    probs = np.where(draw.random((5, 9)) < 0.3, on, probs)
    target = draw.choice([0, 1, 255], (5, 9))
    options = {"patch_size": 4, "steps": steps, "epsilon": epsilon}
    found = grid_thresholds(torch.tensor(probs)[None], torch.tensor(target)[None], **options)[0]
    assert found.shape == (2, 3)
    for where, threshold in search(probs, target, 4, steps, epsilon).items():
        np.testing.assert_equal(found[where].item(), float(threshold))


def test_quantised_maps_are_searched_in_levels():
    levels = torch.tensor([[[51, 52, 204, 205]]], dtype=torch.uint8)  # 51 / 255 is 0.2 itself
    found = grid_thresholds(levels, torch.tensor([[[0, 1, 1, 1]]]), patch_size=4)
    assert found.item() == 51
    assert (levels > found).tolist() == [[[False, True, True, True]]]
    sixteen = (levels.int() * 257).to(torch.uint16)
    found = grid_thresholds(sixteen, torch.tensor([[[0, 1, 1, 1]]]), patch_size=4)
    assert found.item() == 51 * 257


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_keep_their_dtype(dtype):
    probs = torch.tensor([[[0.1, 0.6, 0.7, 0.72]]], dtype=dtype)
    found = grid_thresholds(probs, torch.tensor([[[0, 0, 1, 1]]]), patch_size=4)
    assert found.dtype == dtype
    assert (probs > found).tolist() == [[[False, False, True, True]]]


def test_no_image_gives_no_threshold():
    nothing = torch.zeros(0, 4, 6)
    assert grid_thresholds(nothing, nothing.long(), patch_size=4).shape == (0, 1, 2)


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_steps_must_be_a_count(steps):
    with pytest.raises(SegmendError, match="steps: want a whole number >= 1"):
        grid_thresholds(
            torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long(), patch_size=2, steps=steps
        )


def test_logits_are_refused():
    with pytest.raises(SegmendError, match=r"probs: want torch.float32 values in \[0, 1\], got -3"):
        grid_thresholds(torch.full((1, 2, 2), -3.0), torch.zeros(1, 2, 2).long(), patch_size=2)
