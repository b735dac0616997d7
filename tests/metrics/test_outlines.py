"""Boundaries and disks against the DAVIS definition, scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from skimage.morphology import dilation, disk

from segmend.metrics.outlines import boundary, dilate


@given(st.integers(0, 9), st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6))
def test_dilation_is_the_disk_of_scikit_image_and_of_a_distance_transform(
    radius, height, width, seed
):
    mask = np.random.default_rng(seed).random((height, width)) < 0.03
    grown = dilate(mask, radius)
    assert np.array_equal(grown, dilation(mask, disk(radius)))
    if mask.any():
        assert np.array_equal(grown, distance_transform_edt(~mask) <= radius)


def test_every_bit_of_a_byte_is_dilated_by_itself():
    planes = np.random.default_rng(0).integers(0, 256, (2, 9, 11), dtype=np.uint8)
    planes[np.random.default_rng(1).random(planes.shape) < 0.9] = 0
    grown = dilate(planes, 2)
    for bit in range(8):
        alone = np.stack([dilation(plane & 1 << bit > 0, disk(2)) for plane in planes])
        assert np.array_equal(grown & 1 << bit > 0, alone)


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
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    # its last column compares downwards only and its last row to the right only, as ours
    assert np.array_equal(boundary(mask), davis_boundary(mask))
