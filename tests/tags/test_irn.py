"""Boundaries, displacements and the walk against loops and the authors' own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.affinity import PairLabels, half_plane_offsets, pair_labels
from segmend.tags.irn import (
    boundary_affinity,
    boundary_walk,
    confident_labels,
    displacement_losses,
    irn_loss,
    path_between,
    upsampled_scores,
)
from segmend.tags.random_walk import transition

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "irn_random_walk.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@st.composite
def cases(draw):
    """(boundary (N, H, W), displacement (N, 2, H, W), labels (N, H, W), offsets)."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    boundary = torch.from_numpy(generator.random(shape))
    displacement = torch.from_numpy(generator.normal(size=(shape[0], 2, *shape[1:])))
    labels = torch.from_numpy(generator.choice([0, 0, 1, 1, 2, 255], size=shape))
    return boundary, displacement, labels, half_plane_offsets(draw(st.integers(1, 5)))


def distance_to_segment(point, end):
    """Oracle: distance of `point` from the segment between (0, 0) and `end`, by projection."""
    point, end = np.array(point, float), np.array(end, float)
    along = np.clip(point @ end / (end @ end), 0, 1)
    return np.linalg.norm(point - along * end)


@pytest.mark.parametrize("radius", [5, 10])
def test_path_is_what_lies_closer_than_one_pixel(radius):
    square = range(-radius, radius + 1)
    for offset in half_plane_offsets(radius):
        near = {
            (y, x) for y in square for x in square if distance_to_segment((y, x), offset) < 1 - 1e-9
        }
        assert set(path_between(offset)) == near
    assert path_between((0, 0)) == [(0, 0)]


@given(cases())
def test_affinity_is_one_minus_the_strongest_boundary_between(case):
    boundary, _, _, offsets = case
    found = boundary_affinity(boundary, offsets)
    _, height, width = boundary.shape
    for n, d, y, x in np.ndindex(found.shape):
        dy, dx = offsets[d]
        if 0 <= y + dy < height and 0 <= x + dx < width:
            path = [
                float(boundary[n, y + py, x + px])
                for py in range(dy + 1)
                for px in range(min(0, dx), max(0, dx) + 1)
                if distance_to_segment((py, px), (dy, dx)) < 1 - 1e-9
            ]
            assert found[n, d, y, x] == pytest.approx(1 - max(path))
        else:
            assert found[n, d, y, x] == 0


def test_gradient_reaches_the_strongest_pixel_of_each_pair():
    boundary = torch.rand(1, 4, 4, dtype=torch.float64, requires_grad=True)
    offsets = half_plane_offsets(3)
    assert torch.autograd.gradcheck(lambda b: boundary_affinity(b, offsets), (boundary,))


@given(cases())
def test_displacement_losses_by_definition(case):
    _, displacement, labels, offsets = case
    pairs = pair_labels(labels, offsets)
    sums, counts = np.zeros(2), np.zeros(2)
    for kind, (chosen, moved) in enumerate([(pairs.foreground, True), (pairs.background, False)]):
        for n, d, y, x in np.argwhere(chosen.numpy()):
            dy, dx = offsets[d]
            apart = displacement[n, :, y, x] - displacement[n, :, y + dy, x + dx]
            wanted = torch.tensor([dy, dx]) if moved else torch.zeros(2)
            sums[kind] += (apart - wanted).abs().sum().item()
            counts[kind] += 2
    spoilt = displacement.masked_fill(labels.unsqueeze(1) == 255, torch.nan)
    for found, wanted in zip(
        displacement_losses(spoilt, pairs, offsets), sums / np.maximum(counts, 1), strict=True
    ):
        assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_pointing_at_one_centre_costs_nothing():
    rows, cols = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    to_centre = torch.stack([2 - rows, 3 - cols]).unsqueeze(0)
    offsets = half_plane_offsets(4)
    pairs = pair_labels(torch.ones(1, 6, 7, dtype=torch.long), offsets)
    foreground, background = displacement_losses(to_centre, pairs, offsets)
    assert foreground.item() == background.item() == 0
    affinity = torch.full(pairs.foreground.shape, 0.5)
    assert irn_loss(affinity, to_centre, pairs, offsets).item() == pytest.approx(
        -np.log(0.5) / 4, 1e-4
    )
    away, _ = displacement_losses(-to_centre, pairs, offsets)
    assert irn_loss(affinity, -to_centre, pairs, offsets).item() == pytest.approx(
        -np.log(0.5) / 4 + away.item() / 2, 1e-4
    )
    assert away > 1


def test_dense_matrices_of_the_published_code(golden):
    offsets = half_plane_offsets(5)
    affinity = boundary_affinity(golden["edge"], offsets)
    assert len(offsets) == golden["n_pairs_directions"]
    dense = golden["dense_affinity"].reshape(12, 14, 12, 14)
    for d, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(12 - dy, 14):
            if 0 <= x + dx < 14:
                assert affinity[0, d, y, x] == dense[y, x, y + dy, x + dx]
    step = transition(affinity, offsets, beta=float(golden["beta"])).to_dense()
    torch.testing.assert_close(step.T, golden["transition_1step"])


@pytest.mark.parametrize("tolerance", [0, 1e-7])
def test_published_walk(golden, tolerance):
    cams, edge = golden["cam"].unsqueeze(0), golden["edge"]
    walked = boundary_walk(cams, edge, tolerance=tolerance)
    torch.testing.assert_close(walked[0], golden["rw"][:, 0], rtol=1e-3, atol=1e-6)
    few = boundary_walk(cams.double(), edge.double(), beta=4, steps=4, tolerance=tolerance)
    torch.testing.assert_close(few[0].float(), golden["rw_b4_t2_f64"][:, 0], rtol=1e-3, atol=1e-6)
    grown = upsampled_scores(walked, (47, 54))
    torch.testing.assert_close(grown[0], golden["rw_upsampled_norm"], rtol=1e-3, atol=1e-6)
    behind = torch.full((1, 47, 54), 0.25)
    assert torch.equal(torch.cat([behind, grown[0]]).argmax(0), golden["rw_pred"].long())


def test_upsampled_scores_have_one_maximum_or_one_per_class():
    scores = torch.rand(2, 3, 4, 5)
    scores[1, 2] = 0
    together = upsampled_scores(scores, (15, 18))
    assert together.shape == (2, 3, 15, 18)
    torch.testing.assert_close(together.amax((1, 2, 3)), torch.ones(2))
    apart = upsampled_scores(scores, (16, 20), per_class=True).amax((2, 3))
    torch.testing.assert_close(apart, torch.tensor([[1.0, 1, 1], [1, 1, 0]]))


def test_confident_labels_keep_what_both_maps_support():
    strict = torch.tensor([[1, 0, 0, 2, 0]])
    lenient = torch.tensor([[1, 0, 2, 0, 0]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert confident_labels(strict, lenient, valid).tolist() == [[1, 0, 255, 2, 255]]
    assert confident_labels(strict, lenient, ignore_index=7).tolist() == [[1, 0, 7, 2, 0]]


EMPTY = PairLabels(*torch.zeros(3, 1, 2, 3, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: boundary_affinity(torch.zeros(3, 3), []), r"boundary: want float \(N, H, W\)"),
        (lambda: boundary_walk(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 3)), "scores: want"),
        (lambda: displacement_losses(torch.zeros(1, 2, 3, 3), EMPTY, []), "with 2 offsets"),
        (lambda: displacement_losses(torch.zeros(1, 1, 3, 3), EMPTY, [(0, 1)] * 2), "displacement"),
        (lambda: confident_labels(torch.zeros(2), torch.zeros(3)), "lenient: want strict's shape"),
        (lambda: upsampled_scores(torch.zeros(1, 1, 2, 2), (9, 8)), "size: want at most 4 times"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
