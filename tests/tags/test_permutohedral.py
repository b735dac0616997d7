"""The lattice against geometry by brute force and against Gaussian sums over all pairs."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.permutohedral import PermutohedralLattice, _enumerate


def cloud(d, n, *, seed=0, spread=2.0):
    return np.random.default_rng(seed).uniform(-spread, spread, (d, n)).astype(np.float32)


def values(*shape, seed=1):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def hyperplane(features):
    """Positions (n, d + 1) that sum to zero: an isometry, times the scale of the paper."""
    d = len(features)
    basis = np.zeros((d + 1, d))
    for i in range(1, d + 1):
        basis[:i, i - 1], basis[i, i - 1] = 1, -i
        basis[:, i - 1] /= np.sqrt(i * (i + 1))
    return np.sqrt(2 / 3) * (d + 1) * (basis @ features).T


def enclosing(position):
    """Corners and weights of the simplex around a point: every simplex nearby is tried."""
    size = len(position)
    steps = 1 - size * np.eye(size, dtype=int)
    around = np.floor(position / size).astype(int)
    for shift in product((0, 1), repeat=size):
        origin = size * (around + shift)
        if origin.sum() != 0:
            continue
        for order in permutations(range(size)):
            corners = origin + np.cumsum([0 * steps[0], *steps[list(order[:-1])]], axis=0)
            system = np.vstack([corners.T, np.ones(size)])
            weights = np.linalg.lstsq(system, np.append(position, 1), rcond=None)[0]
            if (weights > -1e-9).all():
                return [tuple(corner) for corner in corners], weights
    raise AssertionError(position)


def by_hand(features, given_values):
    """The filter with dictionaries: splat, blur along one axis after the other, slice."""
    simplices = [enclosing(p) for p in hyperplane(features.astype(float))]
    held = {}
    for (corners, weights), value in zip(simplices, given_values, strict=True):
        for corner, weight in zip(corners, weights, strict=True):
            held[corner] = held.get(corner, 0) + weight * value
    size = len(features) + 1
    for step in 1 - size * np.eye(size, dtype=int):
        held = {
            corner: value
            + 0.5 * held.get(tuple(corner + step), 0)
            + 0.5 * held.get(tuple(corner - step), 0)
            for corner, value in held.items()
        }
    sums = [sum(w * held[c] for c, w in zip(*s, strict=True)) for s in simplices]
    return np.array(sums), len(held)


@pytest.mark.parametrize(("d", "n"), [(1, 40), (2, 40), (3, 25), (4, 6)])
def test_is_the_lattice_of_the_paper(d, n):
    features, v = cloud(d, n, seed=d), values(n)
    lattice = PermutohedralLattice(features)
    wanted, corners = by_hand(features, v)
    assert lattice.corners == corners
    np.testing.assert_allclose(lattice.filter(v), wanted, rtol=1e-4)


@pytest.mark.parametrize(("d", "side"), [(1, 400), (2, 40), (3, 12)])
def test_approximates_gaussian_sums(d, side):
    axis = np.linspace(-2, 2, side, dtype=np.float32)
    features = np.stack(np.meshgrid(*[axis] * d)).reshape(d, -1)
    v = np.sign(features[0]) + 0.1 * values(side**d)
    lattice = PermutohedralLattice(features)
    lattice.normalise()
    found, squares = lattice.filter(v), ((features[:, :, None] - features[:, None]) ** 2).sum(0)

    def error(width):
        kernel = np.exp(-0.5 * squares / width**2)
        roots = np.sqrt(kernel.sum(1))
        return np.abs(found - kernel / roots[:, None] / roots[None] @ v).mean()

    assert error(1) < 0.04  # of values in [-1, 1.1]
    assert error(1) < 0.7 * min(error(0.8), error(1.25))


@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=15)
def test_linear_and_blind_to_order(d, n, seed):
    features, v = cloud(d, n, seed=seed), values(n, 5, seed=seed)
    lattice = PermutohedralLattice(features)
    together = lattice.filter(v)
    one_by_one = np.stack([lattice.filter(column.copy()) for column in v.T], 1)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5)
    np.testing.assert_allclose(lattice.filter(v @ np.ones(5, np.float32)), together.sum(1), 1e-5)
    order = np.random.default_rng(seed).permutation(n)
    turned = PermutohedralLattice(features[:, order]).filter(v[order])
    np.testing.assert_allclose(turned, together[order], rtol=1e-5)


def test_normalised_kernel_keeps_its_roots():
    lattice = PermutohedralLattice(cloud(5, 300))
    roots = lattice.normalise()
    np.testing.assert_allclose(lattice.filter(roots), roots, rtol=1e-5)


def test_many_pixels_are_placed_as_few():
    few = cloud(2, 1000)
    many = np.tile(few, 40)  # more than one portion
    alone = PermutohedralLattice(few).filter(np.ones(1000, np.float32))
    found = PermutohedralLattice(many).filter(np.ones(40_000, np.float32))
    np.testing.assert_allclose(found, np.tile(40 * alone, 40), rtol=1e-4)


def test_far_apart_pixels_ignore_each_other():
    features = np.array([[0, 0, 1000], [0, 0.1, -1000], [0, 0, 500]], dtype=np.float32)
    filtered = PermutohedralLattice(features).filter(np.array([1, 0, 0], np.float32))
    assert filtered[1] > 0.5 * filtered[0] > 0
    assert filtered[2] == 0


def test_numbers_too_long_to_carry_their_place():
    keys = np.random.default_rng(0).integers(0, 50, (30, 4))
    short, index = _enumerate(keys)
    long, same = _enumerate(keys << 55)
    assert np.array_equal(short[index], keys.reshape(-1))
    assert np.array_equal(long, short << 55)
    assert np.array_equal(same, index)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(3), r"want finite \(d, n\), got \(3,\)"),
        (np.zeros((2, 0)), r"want finite \(d, n\), got \(2, 0\)"),
        (np.full((2, 3), np.nan), "or NaN"),
        (np.array([[0, 1e8]] * 3), "too many standard deviations.*widen the kernel"),
    ],
)
def test_errors_say_what_was_wanted(features, message):
    with pytest.raises(SegmendError, match=message):
        PermutohedralLattice(features)
