"""PAMR against loops over pixels and neighbours in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.pamr import colour_affinity, pamr


@st.composite
def cases(draw):
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    sides = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    masks = torch.rand(*shape, *sides, generator=generator, dtype=torch.float64)
    images = torch.rand(shape[0], 3, *sides, generator=generator, dtype=torch.float64)
    return masks, images


def by_loops(masks, images, dilations, iterations):
    """Oracle: pixel by pixel, coordinates clipped to the map."""
    masks, images = masks.numpy(), images.numpy()
    _, _, height, width = masks.shape
    places = list(np.ndindex(height, width))
    ring = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]

    def clip(y, x):
        return min(max(y, 0), height - 1), min(max(x, 0), width - 1)

    for n in range(len(masks)):
        weights, near = {}, {}
        for y, x in places:
            window = [clip(y + d * dy, x + d * dx) for d in dilations for dy, dx in ring]
            near[y, x] = [
                clip(y + d * dy, x + d * dx)
                for d in dilations
                for dy, dx in ring
                if (dy, dx) != (0, 0)
            ]
            spread = np.std([images[n, :, a, b] for a, b in window], axis=0, ddof=1)
            energy = np.array(
                [
                    np.mean(
                        -np.abs(images[n, :, a, b] - images[n, :, y, x]) / (1e-8 + 0.1 * spread)
                    )
                    for a, b in near[y, x]
                ]
            )
            weights[y, x] = np.exp(energy - energy.max()) / np.exp(energy - energy.max()).sum()
        for _ in range(iterations):
            old = masks[n].copy()
            for y, x in places:
                masks[n, :, y, x] = sum(
                    w * old[:, a, b] for w, (a, b) in zip(weights[y, x], near[y, x], strict=True)
                )
    return torch.from_numpy(masks)


@given(cases(), st.sampled_from([(1,), (1, 2), (3, 1, 24)]), st.integers(0, 3))
def test_agrees_with_loops(case, dilations, iterations):
    masks, images = case
    wanted = by_loops(masks.clone(), images, dilations, iterations)
    found = pamr(masks, images, dilations=dilations, iterations=iterations)
    torch.testing.assert_close(found, wanted)


@given(cases())
def test_affinities_sum_to_one_and_scores_stay_in_range(case):
    masks, images = case
    affinity = colour_affinity(images)
    assert len(affinity) == 48
    torch.testing.assert_close(affinity.sum(0), torch.ones_like(affinity[0]))
    refined = pamr(masks, images)
    assert (refined <= masks.amax((2, 3), keepdim=True) + 1e-9).all()
    assert (refined >= masks.amin((2, 3), keepdim=True) - 1e-9).all()


def test_scores_stop_at_a_colour_edge():
    images = torch.zeros(1, 3, 8, 12)
    images[..., 6:] = 1
    masks = torch.zeros(1, 1, 8, 12)
    masks[..., 1:4, 1:4] = 1
    refined = pamr(masks, images, dilations=(1, 2))
    assert refined[..., :6].mean() > 0.05
    assert refined[..., 6:].max() < 1e-2


def test_image_is_resized_and_half_precision_is_computed_in_single():
    masks = torch.rand(1, 2, 6, 6, dtype=torch.float16, requires_grad=True)
    refined = pamr(masks, torch.rand(1, 3, 24, 24), iterations=2)
    assert refined.dtype == torch.float32
    refined.sum().backward()
    assert masks.grad.isfinite().all()
    flat = pamr(
        torch.rand(1, 1, 4, 4), torch.full((1, 3, 4, 4), 0.5), dilations=(1,), iterations=200
    )
    assert flat.max() - flat.min() < 1e-3  # a flat image: nothing stops the mean


MASKS, IMAGES = torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("masks", "images", "options", "message"),
    [
        (MASKS[0], IMAGES, {}, r"pamr: want masks \(N, K"),
        (MASKS, IMAGES[:, :2], {}, "pamr: want"),
        (MASKS, IMAGES, {"dilations": ()}, "dilations: want at least one"),
        (MASKS, IMAGES, {"dilations": (0, 1)}, "dilations: want"),
        (MASKS, IMAGES, {"iterations": -1}, "iterations: want"),
    ],
)
def test_errors_say_what_was_wanted(masks, images, options, message):
    with pytest.raises(SegmendError, match=message):
        pamr(masks, images, **options)
