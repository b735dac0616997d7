"""Pairs, affinities, labels and loss against loops over pixels and the authors' own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.affinity import (
    PairLabels,
    affinity_labels,
    affinity_loss,
    affinity_loss_terms,
    existing_pairs,
    half_plane_offsets,
    pair_labels,
    pairwise_affinity,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def labels_golden():
    return np.load(GOLDEN / "psa_affinity_labels.npz")


@st.composite
def maps(draw):
    """(labels (N, H, W), features (N, C, H, W), offsets); maps may be smaller than the radius."""
    sides = st.integers(1, 7)
    shape = (draw(st.integers(1, 2)), draw(sides), draw(sides))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    labels = torch.from_numpy(generator.choice([0, 0, 1, 2, 255], size=shape))
    features = torch.from_numpy(generator.normal(size=(shape[0], 3, *shape[1:])))
    return labels, features, half_plane_offsets(draw(st.integers(1, 5)))


def by_loops(labels, features, offsets, radius=None):
    """Oracle: every pair in plain Python; `radius` drops sources near the border, as published."""
    batch, height, width = labels.shape
    shape = (batch, len(offsets), height, width)
    affinity, kinds = np.zeros(shape), np.zeros((3, *shape), dtype=bool)
    for n, d, y, x in np.ndindex(shape):
        ty, tx = y + offsets[d][0], x + offsets[d][1]
        inside = 0 <= ty < height and 0 <= tx < width
        if radius is not None:
            inside &= y < height - radius + 1 and radius - 1 <= x < width - radius + 1
        if not inside:
            continue
        apart = features[n, :, y, x].numpy() - features[n, :, ty, tx].numpy()
        affinity[n, d, y, x] = np.exp(-np.abs(apart).mean())
        one, two = int(labels[n, y, x]), int(labels[n, ty, tx])
        if 255 not in (one, two):
            kinds[0 if one == two == 0 else 1 if one == two else 2, n, d, y, x] = True
    return torch.from_numpy(affinity), PairLabels(*torch.from_numpy(kinds))


@given(maps(), st.sampled_from(["all", "published"]))
def test_pairs_agree_with_loops(case, borders):
    labels, features, offsets = case
    radius = max((dx for _, dx in offsets), default=0) + 1 if borders == "published" else None
    affinity, pairs = by_loops(labels, features, offsets, radius)
    torch.testing.assert_close(pairwise_affinity(features, offsets, borders=borders), affinity)
    found = pair_labels(labels, offsets, borders=borders)
    assert all(torch.equal(a, b) for a, b in zip(found, pairs, strict=True))


@given(st.integers(1, 12))
def test_offsets_meet_every_neighbour_once(radius):
    offsets = half_plane_offsets(radius)
    both = offsets + [(-dy, -dx) for dy, dx in offsets]
    square = range(-radius, radius + 1)
    near = {(y, x) for y in square for x in square if 0 < y * y + x * x < radius**2}
    assert len(both) == len(set(both))
    assert set(both) == near


def test_published_offsets_and_counts(labels_golden):
    offsets = half_plane_offsets(5)
    assert np.array_equal(offsets, labels_golden["search_dist_dy_dx"])
    assert len(half_plane_offsets(10)) == 152


@pytest.mark.parametrize(
    ("size", "radius"), [((11, 30), 5), ((10, 30), 4), ((4, 4), 1), ((1, 9), 1)]
)
def test_radius_shrinks_with_the_map(size, radius):
    assert half_plane_offsets(5, size=size) == half_plane_offsets(radius)
    pairs = existing_pairs(*size, half_plane_offsets(radius), borders="published")
    assert pairs.any() == (radius > 1)


@pytest.mark.parametrize("name", ["0", "1"])
def test_labels_and_loss_of_the_published_code(labels_golden, name):
    offsets = half_plane_offsets(5)
    labels = torch.from_numpy(labels_golden[f"label_{name}"]).long().unsqueeze(0)
    height, width = labels.shape[1:]
    pairs = pair_labels(labels, offsets, borders="published")
    inside = (slice(None), slice(None), slice(height - 4), slice(4, width - 4))
    for found, key in zip(pairs, ("bg_pos", "fg_pos", "neg"), strict=True):
        wanted = torch.from_numpy(labels_golden[f"{key}_{name}"]).bool()
        assert torch.equal(found[inside].flatten(2)[0], wanted)
        assert found.sum() == wanted.sum()  # none outside
    affinity = torch.full(pairs.negative.shape, torch.nan)
    given_affinity = torch.from_numpy(labels_golden[f"aff_{name}"])
    affinity[inside] = given_affinity.reshape(1, 34, height - 4, width - 8)
    affinity.requires_grad_()
    terms = torch.stack(affinity_loss_terms(affinity, pairs))
    wanted = torch.from_numpy(labels_golden[f"loss_parts_{name}"]).float()
    torch.testing.assert_close(terms, wanted, rtol=1e-5, atol=0)
    loss = affinity_loss(affinity, pairs)
    assert loss.item() == pytest.approx(float(labels_golden[f"loss_{name}"]), rel=1e-5)
    loss.backward()
    gradient = affinity.grad[inside].flatten(2)[0]
    wanted = torch.from_numpy(labels_golden[f"grad_aff_{name}"])
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-9)


@given(maps())
def test_loss_by_definition(case):
    labels, features, offsets = case
    affinity, pairs = by_loops(labels, features, offsets)
    numbers = affinity.numpy()
    logs = [-np.log(a + 1e-5) for a in (numbers, numbers, 1 - numbers)]
    means = [
        log[chosen].mean() if chosen.any() else 0.0 for log, chosen in zip(logs, pairs, strict=True)
    ]
    loss = affinity_loss(affinity, pairs)
    assert loss.item() == pytest.approx(
        means[0] / 4 + means[1] / 4 + means[2] / 2, rel=1e-4, abs=1e-9
    )


def test_features_get_a_gradient():
    offsets = half_plane_offsets(3)
    features = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    pairs = pair_labels(torch.tensor([[[0, 0, 1, 1]] * 4]), offsets)
    assert torch.autograd.gradcheck(
        lambda f: affinity_loss(pairwise_affinity(f, offsets), pairs), (features,)
    )


def test_nothing_labelled_is_zero():
    pairs = pair_labels(torch.full((1, 5, 5), 255), half_plane_offsets(3))
    affinity = torch.full(pairs.negative.shape, torch.nan, requires_grad=True)
    loss = affinity_loss(affinity, pairs)
    loss.backward()
    assert loss == 0
    assert not affinity.grad.any()


def test_labels_that_two_backgrounds_agree_on():
    low = torch.tensor([[2, 0, 0, 2, 1]])
    high = torch.tensor([[2, 0, 2, 0, 1]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert affinity_labels(low, high, valid).tolist() == [[2, 0, 255, 0, 255]]
    assert affinity_labels(low, high, ignore_index=9).tolist() == [[2, 0, 9, 0, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: half_plane_offsets(0), "radius: want .* got 0"),
        (lambda: existing_pairs(3, 3, [(0, 1)], borders="no"), "borders: want one of all, pub"),
        (lambda: pairwise_affinity(torch.zeros(3, 3), []), r"features: want float \(N, C"),
        (lambda: pair_labels(torch.zeros(1, 3, 3), []), "labels: want integer"),
        (lambda: affinity_labels(torch.zeros(2), torch.zeros(3)), "high_alpha: want low_alpha's"),
        (
            lambda: affinity_loss(
                torch.zeros(1, 1, 3, 3), pair_labels(torch.ones(1, 3, 3).long(), [])
            ),
            "affinity: want the labels' shape",
        ),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
