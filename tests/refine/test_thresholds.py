"""Exact thresholds against brute force over all thresholds, and the properties they must have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threshold_oracle import best_image_cuts, best_patch_cuts, patches_of

from segmend import SegmendError
from segmend.refine import patch_grid
from segmend.refine.grid import grid_thresholds
from segmend.refine.patch_masks import apply_thresholds, patch_iou
from segmend.refine.thresholds import best_thresholds

TIES = ("nearest", "largest", "smallest")


@st.composite
def maps(draw, *, side=7, patch=4, levels=8, images=2):
    """Scores that are eighths, so that ties and 0.5 itself are common; labels; a patch size."""
    shape = draw(st.tuples(st.integers(1, images), st.integers(1, side), st.integers(1, side)))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, levels))) / levels
    target = draw(hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 1, 1, 255])))
    sides = st.integers(1, patch)
    size = draw(st.one_of(sides, st.tuples(sides, sides)))
    return torch.from_numpy(scores), torch.from_numpy(target), size


def same_masks(scores, target, size, thresholds, cuts_of_image, **options):
    """Every patch's mask is the oracle's, on valid pixels."""
    mask = apply_thresholds(scores, thresholds, patch_size=size)
    for n in range(len(scores)):
        oracle = cuts_of_image(scores[n].double().numpy(), target[n].numpy(), size, **options)
        for where, window in patches_of(*scores.shape[1:], size):
            threshold = thresholds[n][where]
            if oracle[where] is None:
                assert torch.isnan(threshold)
                continue
            valid = target[n][window] != 255
            got, want = mask[n][window], torch.from_numpy(oracle[where].mask)
            assert torch.equal(got[valid], want[valid]), (where, threshold)
            assert (threshold == torch.inf) == (oracle[where].size == 0)
            assert (threshold == -torch.inf) == (0 < oracle[where].size == int(valid.sum()))


@given(maps(), st.sampled_from([0, 1]), st.sampled_from(TIES))
def test_every_patch_gets_the_mask_of_brute_force(case, epsilon, ties):
    probs, target, size = case
    found = best_thresholds(probs, target, patch_size=size, epsilon=epsilon, ties=ties)
    same_masks(probs, target, size, found, best_patch_cuts, epsilon=epsilon, ties=ties)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("epsilon", [0, 1])
@pytest.mark.parametrize("objective", ["patch", "image"])
@pytest.mark.parametrize("kind", ["float", "sorted", "counted"])
def test_all_targets_of_eight_pixels(kind, objective, epsilon, ties, monkeypatch):
    """Every IoU tie there is, with the base threshold at, below and above every score."""
    pixels = 8
    target = (torch.arange(1 << pixels)[:, None] >> torch.arange(pixels) & 1)[:, None]
    seed = torch.Generator().manual_seed(0)
    start = torch.randint(-1, pixels + 1, (1 << pixels, 1, 1), generator=seed)
    steps = start - torch.arange(pixels)  # 0: at the base threshold
    steps[torch.rand(steps.shape, generator=seed) < 0.1] = 0  # scores that tie
    probs = 0.5 + steps / 32
    if kind != "float":
        probs = (127 + steps).to(torch.uint8)
        often = 0 if kind == "counted" else 1 << 30
        monkeypatch.setattr("segmend.refine.histogram._PIXELS_PER_LEVEL", often)
    size, oracle = {
        "patch": ((1, pixels), best_patch_cuts),
        "image": ((1, pixels // 2), best_image_cuts),
    }[objective]
    options = {"epsilon": epsilon, "ties": ties}
    found = best_thresholds(probs, target, patch_size=size, objective=objective, **options)
    base = 0.5 if kind == "float" else 127.5
    same_masks(probs, target, size, found, oracle, base=base, **options)


@given(maps(side=4, patch=3, levels=4, images=2), st.sampled_from([0, 1]), st.sampled_from(TIES))
def test_image_objective_is_the_best_of_all_combinations(case, epsilon, ties):
    probs, target, _ = case
    size = (max(1, -(-probs.shape[1] // 2)), max(1, -(-probs.shape[2] // 2)))  # four patches
    found = best_thresholds(
        probs, target, patch_size=size, objective="image", epsilon=epsilon, ties=ties
    )
    same_masks(probs, target, size, found, best_image_cuts, epsilon=epsilon, ties=ties)


@pytest.mark.parametrize("objective", ["patch", "image"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.uint16, torch.int32]
)
@settings(max_examples=25)
@given(case=maps(), ties=st.sampled_from(TIES))
def test_every_dtype_gives_the_masks_of_float64(dtype, objective, case, ties):
    probs, target, size = case
    maps = probs.to(dtype)
    if not dtype.is_floating_point:  # eighths are not levels: 0 .. 8 eighths to even levels
        probs = torch.round(probs * 8) * (31 if dtype == torch.uint8 else 8000)
        top = 255 if dtype == torch.uint8 else 65535
        maps, probs = probs.to(torch.int32).to(dtype), probs / top
    options = {"patch_size": size, "objective": objective, "ties": ties}
    reference = best_thresholds(probs, target, **options)
    found = best_thresholds(maps, target, **options)
    assert found.dtype == (dtype if dtype.is_floating_point else torch.float32)
    valid = target != 255
    assert torch.equal(
        apply_thresholds(maps, found, patch_size=size)[valid],
        apply_thresholds(probs, reference, patch_size=size)[valid],
    )


@pytest.mark.parametrize("objective", ["patch", "image"])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
@pytest.mark.parametrize(("dtype", "top"), [(torch.uint8, 255), (torch.int32, 65535)])
def test_counting_equals_sorting(dtype, top, ignored, objective, monkeypatch):
    generator = torch.Generator().manual_seed(top)
    levels = torch.randint(top // 3, top // 2 + 2, (2, 90, 70), generator=generator)
    noise = torch.randint(top // 8, levels.shape, generator=generator)
    target = (levels + noise > 0.45 * top).long()
    target[torch.rand(2, 90, 70, generator=generator) < ignored] = 255
    both = []
    for pixels_per_level in (0, 1 << 30):  # always counts, always sorts
        monkeypatch.setattr("segmend.refine.histogram._PIXELS_PER_LEVEL", pixels_per_level)
        both.append(best_thresholds(levels.to(dtype), target, patch_size=40, objective=objective))
    assert both[0].isfinite().all()
    assert torch.equal(both[0], both[1])
    assert (both[0] * 2 == (both[0] * 2).round()).all()  # in levels, or midway between two


@given(maps(), st.sampled_from(["largest", "smallest"]), st.sampled_from(["patch", "image"]))
def test_only_ranks_matter(case, ties, objective):
    probs, target, size = case
    options = {"patch_size": size, "ties": ties, "objective": objective}
    expected = apply_thresholds(probs, best_thresholds(probs, target, **options), patch_size=size)
    for changed in (
        probs**3 / 2 + 0.4,
        1000 * (probs - 0.3),  # logits, float64
        (1000 * (probs - 0.3)).float(),
        (probs - 2).half(),
    ):
        found = best_thresholds(changed, target, **options)
        mask = apply_thresholds(changed, found, patch_size=size)
        assert torch.equal(mask[target != 255], expected[target != 255])


@given(maps())
def test_never_worse_than_the_grid_or_one_threshold(case):
    probs, target, size = case
    exact, image, grid = (
        apply_thresholds(probs, found, patch_size=size)
        for found in (
            best_thresholds(probs, target, patch_size=size),
            best_thresholds(probs, target, patch_size=size, objective="image"),
            grid_thresholds(probs, target, patch_size=size, epsilon=0.0),
        )
    )
    best = patch_iou(exact, target, patch_size=size).nan_to_num()
    for other in (image, grid, probs > 0.5, probs > 0.25):
        assert (best >= patch_iou(other, target, patch_size=size).nan_to_num()).all()
    whole = tuple(probs.shape[1:])
    best = patch_iou(image, target, patch_size=whole).nan_to_num()
    for other in (exact, grid, probs > 0.5, probs > 0.25):
        assert (best >= patch_iou(other, target, patch_size=whole).nan_to_num()).all()


@given(maps())
def test_ignored_pixels_cannot_matter(case):
    probs, target, size = case
    spoilt = probs.masked_fill(target == 255, torch.nan)
    found, expected = (best_thresholds(p, target, patch_size=size) for p in (spoilt, probs))
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.999, 1e-7, -7.0, 3e4])
def test_neighbouring_floats_are_told_apart(dtype, start):
    low = torch.tensor(start, dtype=dtype)
    high = torch.nextafter(low, torch.tensor(torch.inf, dtype=dtype))
    probs, target = torch.stack([low, high]).view(1, 1, 2), torch.tensor([[[0, 1]]])
    found = best_thresholds(probs, target, patch_size=2, ties="smallest")
    assert (probs > found).tolist() == [[[False, True]]]


def test_huge_logits_do_not_overflow_the_threshold():
    high = torch.finfo(torch.float32).max
    for scores in ([-high, high], [high / 2, high], [-high, -high / 2]):
        probs, target = torch.tensor([[scores]]), torch.tensor([[[0, 1]]])
        found = best_thresholds(probs, target, patch_size=2, ties="largest")
        assert (probs > found).tolist() == [[[False, True]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("high", [0.5, 9.0])  # a probability, a logit
def test_minus_zero_ties_with_zero(dtype, high):
    probs = torch.tensor([[[-0.0, 0.0, 0.0, -0.0, high]]], dtype=dtype)
    target = torch.tensor([[[1, 0, 1, 1, 255 if high < 1 else 0]]])
    found = best_thresholds(probs, target, patch_size=5, ties="smallest")
    assert found.item() == -torch.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize(("label", "expected"), [(0, torch.inf), (1, -torch.inf), (255, torch.nan)])
def test_targets_of_one_label(label, expected, dtype):
    probs = (torch.arange(64).view(1, 8, 8) / 64).to(dtype)
    target = torch.full((1, 8, 8), label)
    for objective in ("patch", "image"):
        found = best_thresholds(probs, target, patch_size=4, objective=objective)
        torch.testing.assert_close(found, torch.full((1, 2, 2), expected), equal_nan=True)


@pytest.mark.parametrize(("ties", "mask"), [
    ("largest", [1, 1, 1, 1]),
    ("smallest", [1, 0, 0, 0]),
    ("nearest", [1, 0, 0, 0]),
])  # fmt: skip
def test_ties_go_the_way_they_are_told(ties, mask):
    probs = torch.tensor([[[0.9, 0.45, 0.4, 0.3]]])
    target = torch.tensor([[[1, 0, 0, 1]]])  # IoU 1/2 for the first pixel, and for all four
    found = best_thresholds(probs, target, patch_size=4, ties=ties)
    assert (probs > found).int().tolist() == [[mask]]


def test_nearest_counts_changed_pixels_and_prefers_the_larger_of_two():
    # IoU 1/2 for the first pixel and for four; two are above 0.5: 1 change against 2.
    target = torch.tensor([[[1, 0, 0, 1]]])
    near = torch.tensor([[[0.9, 0.8, 0.2, 0.1]]])
    assert best_thresholds(near, target, patch_size=4).item() == pytest.approx(0.85)
    # Three above 0.5: 2 changes against 1.
    near = torch.tensor([[[0.9, 0.8, 0.7, 0.1]]])
    assert best_thresholds(near, target, patch_size=4).item() == -torch.inf
    # IoU 1/3 for one and for five; three above 0.5, so both are 2 changes away.
    target = torch.tensor([[[1, 0, 0, 0, 1, 0, 0, 0, 0, 1]]])
    as_far = torch.tensor([[[0.9, 0.8, 0.7, 0.4, 0.35, 0.3, 0.2, 0.2, 0.2, 0.1]]])
    assert best_thresholds(as_far, target, patch_size=10).item() == pytest.approx(0.325)


def test_chunks_of_images_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(5, 9, 11, generator=generator)
    target = (torch.rand(5, 9, 11, generator=generator) < probs).long()
    whole = best_thresholds(probs, target, patch_size=4, objective="image")
    monkeypatch.setattr(patch_grid, "CHUNK_PIXELS", 200)
    assert torch.equal(best_thresholds(probs, target, patch_size=4, objective="image"), whole)


def test_many_patches_sort_in_threads_alike():
    generator = torch.Generator().manual_seed(2)
    probs = torch.rand(2, 256, 512, generator=generator)
    target = (torch.rand(2, 256, 512, generator=generator) < probs).long()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(best_thresholds(probs, target, patch_size=64))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_no_image_gives_no_threshold():
    nothing = torch.zeros(0, 4, 6)
    assert best_thresholds(nothing, nothing.long(), patch_size=4).shape == (0, 1, 2)


def test_probs_that_need_a_gradient_are_fine():
    probs = torch.rand(1, 4, 4, requires_grad=True)
    found = best_thresholds(probs, torch.ones(1, 4, 4, dtype=torch.long), patch_size=4)
    assert not found.requires_grad


PROBS, TARGET = torch.full((2, 4, 4), 0.5), torch.zeros(2, 4, 4, dtype=torch.long)
WITH_NAN, WITH_LABEL = PROBS.clone(), TARGET.clone()
WITH_NAN[1, 2, 2], WITH_LABEL[1, 0, 0] = torch.nan, 7


@pytest.mark.parametrize(
    ("probs", "target", "options", "message"),
    [
        (PROBS[:, None], TARGET, {}, r"probs: want \(N, H, W\).* got torch.float32 \(2, 1, 4, 4\)"),
        (PROBS.to(torch.complex64), TARGET, {}, "probs: want .* got torch.complex64"),
        (PROBS, TARGET[:, 1:], {}, r"target: want integers \(2, 4, 4\).* got .*\(2, 3, 4\)"),
        (PROBS, TARGET.float(), {}, "target: want integers .* got torch.float32"),
        (PROBS, WITH_LABEL, {}, "target: label 7 in image 1; want 0, 1 or 255"),
        (PROBS, TARGET - 1, {}, "target: label -1 in image 0"),
        (WITH_NAN, TARGET, {}, "probs: NaN or infinite in 1 valid pixels, first in image 1"),
        (PROBS / 0, TARGET, {}, "probs: NaN or infinite"),
        (PROBS * 6, TARGET, {}, r"probs: want torch.float32 values in \[0, 1\], got 3 to 3"),
        ((PROBS - 9).int(), TARGET, {}, r"probs: want torch.int32 values in \[0, 65535\], got -8"),
        (PROBS[:, :0], TARGET[:, :0], {}, "at least one pixel"),
        (PROBS, TARGET, {"patch_size": 0}, "patch_size: want .* got 0"),
        (PROBS, TARGET, {"patch_size": (2, 2, 2)}, r"patch_size: want .* got \(2, 2, 2\)"),
        (PROBS, TARGET, {"objective": "dice"}, "objective: want one of patch, image, got 'dice'"),
        (PROBS, TARGET, {"ties": "first"}, "ties: want one of nearest, largest, smallest"),
        (PROBS, TARGET, {"epsilon": -1}, "epsilon: want .* got -1"),
    ],
)
def test_errors_say_what_was_found_and_what_was_expected(probs, target, options, message):
    with pytest.raises(SegmendError, match=message):
        best_thresholds(probs, target, **{"patch_size": 2, **options})


def test_masks_and_thresholds_that_do_not_fit_are_refused():
    thresholds = torch.zeros(2, 2, 2)
    with pytest.raises(SegmendError, match=r"thresholds: want \(N, 4, 4\) .* got \(2, 2, 2\)"):
        apply_thresholds(PROBS, thresholds, patch_size=1)
    with pytest.raises(SegmendError, match="mask: want bool"):
        patch_iou(PROBS, TARGET, patch_size=2)
