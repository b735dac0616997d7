"""Distance masks against the published values, and against distances by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from segmend.context.distance import MaskRule, distance_map, distance_mask, faded
from segmend.errors import SegmendError

GOLDEN = Path(__file__).parents[1] / "golden/colab_distance_mask.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def test_published_distances_and_masks(golden: dict[str, np.ndarray]) -> None:
    checked = 0
    for axes in ("2d", "3d"):
        target = torch.from_numpy(golden[f"seg_{axes}"].astype(np.int64))[None]
        for name, truncate in (("int", True), ("float", False)):
            found = distance_map(target, truncate=truncate)[0].numpy()
            np.testing.assert_array_equal(found, golden[f"dist_{name}_{axes}"])
        for kind, truncate in (("mask", True), ("maskfloat", False)):
            for tau, sigma in ((30, 20), (3, 2), (0, 20)):
                expected = golden[f"{kind}_{axes}_sub{tau}_dev{sigma}"]
                found = distance_mask(target, tau=tau, sigma=sigma, truncate=truncate)
                np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)
                checked += 1
    assert checked == 12


def test_without_foreground_as_published(golden: dict[str, np.ndarray]) -> None:
    empty = torch.zeros((1, *golden["dist_empty"].shape), dtype=torch.long)
    np.testing.assert_array_equal(distance_map(empty)[0].numpy(), golden["dist_empty"])
    found = distance_mask(empty, tau=3, sigma=2)[0].numpy()
    np.testing.assert_array_equal(found, golden["mask_empty_sub3_dev2"])


@settings(max_examples=20)
@given(
    arrays(np.int64, array_shapes(min_dims=3, max_dims=4, max_side=5), elements=st.integers(0, 2)),
    st.lists(st.floats(0.5, 4), min_size=3, max_size=3),
)
def test_equals_brute_force_with_spacing(target: np.ndarray, sides: list[float]) -> None:
    spacing = sides[: target.ndim - 1]
    found = distance_map(torch.from_numpy(target), spacing=spacing).numpy()
    for labels, distances in zip(target, found, strict=True):
        places = np.argwhere(np.ones_like(labels)) * spacing
        on = labels.ravel() > 0
        if on.all() or not on.any():
            assert not distances.any()
            continue
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        outside, inside = apart[:, on].min(1), min(spacing) - apart[:, ~on].min(1)
        np.testing.assert_allclose(
            distances.ravel(), np.where(on, inside, outside), rtol=1e-5, atol=1e-6
        )


def test_ignored_pixels_are_not_foreground() -> None:
    target = torch.zeros(1, 5, 9, dtype=torch.long)
    target[0, 2, 1], target[0, 2, 8] = 1, 255
    assert distance_map(target)[0, 2, 8] == 7


def test_a_batch_brings_its_distances() -> None:
    rule = MaskRule(2.0, 1.0, None, 255)
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    near = rule.mask(target, torch.full((1, 4, 4), 3.0))
    assert near is not None
    torch.testing.assert_close(near, torch.full((1, 4, 4), -1.0).exp())
    assert MaskRule(None, 1.0, None, 255).mask(target, None) is None


def test_fading() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    mask = torch.full((1, 2, 2), 0.5)
    assert faded(mask, target, 1.0) is mask
    assert faded(None, target, 1.0) is None
    assert torch.equal(faded(mask, target, 0.5), torch.full((1, 2, 2), 0.25))  # type: ignore[arg-type]
    assert torch.equal(faded(None, target, 0.5), mask)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "says"),
    [
        ((4, 4), torch.long, {}, "target"),
        ((1, 4, 4), torch.float32, {}, "target"),
        ((1, 4, 4), torch.long, {"spacing": (1.0, 0.0)}, "spacing"),
        ((1, 4, 4), torch.long, {"spacing": (1.0,)}, "spacing"),
        ((1, 4, 4), torch.long, {"tau": -1.0}, "tau"),
        ((1, 4, 4), torch.long, {"sigma": 0.0}, "sigma"),
    ],
)
def test_input_that_cannot_be(
    shape: tuple[int, ...], dtype: torch.dtype, options: dict[str, object], says: str
) -> None:
    with pytest.raises(SegmendError, match=says):
        distance_mask(torch.zeros(shape, dtype=dtype), **options)  # type: ignore[arg-type]
