"""The walk against dense matrix powers in double precision and the authors' own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.affinity import half_plane_offsets, pairwise_affinity
from segmend.tags.random_walk import power_coefficients, random_walk, transition

GOLDEN = Path(__file__).parents[1] / "golden"


@st.composite
def walks(draw):
    """(scores (N, K, H, W), affinity (N, D, H, W), offsets), down to a map of one pixel."""
    batch, classes = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    offsets = half_plane_offsets(draw(st.integers(1, 5)))
    features = torch.randn(batch, 4, height, width, generator=generator, dtype=torch.float64)
    borders = draw(st.sampled_from(["all", "published"]))
    affinity = pairwise_affinity(features, offsets, borders=borders)
    scores = torch.rand(batch, classes, height, width, generator=generator, dtype=torch.float64)
    return scores, affinity, offsets


def dense_matrix(affinity, offsets, beta):
    """Oracle: the column-normalised matrix (H * W, H * W), filled pair by pair."""
    _, height, width = affinity.shape
    matrix = np.eye(height * width)
    for d, y, x in np.ndindex(affinity.shape):
        ty, tx = y + offsets[d][0], x + offsets[d][1]
        if 0 <= ty < height and 0 <= tx < width:
            value = float(affinity[d, y, x]) ** beta
            matrix[y * width + x, ty * width + tx] = value
            matrix[ty * width + tx, y * width + x] = value
    return matrix / matrix.sum(0, keepdims=True)


def dense_walk(scores, affinity, offsets, beta, steps):
    """Oracle: scores times the power of the dense matrix, image by image."""
    walked = np.zeros(scores.shape)
    for n, (maps, pairs) in enumerate(zip(scores, affinity, strict=True)):
        power = np.linalg.matrix_power(dense_matrix(pairs, offsets, beta), steps)
        walked[n] = (maps.flatten(1).numpy() @ power).reshape(maps.shape)
    return torch.from_numpy(walked)


@given(walks(), st.sampled_from([0, 1, 2, 5, 64, 100]), st.sampled_from([1.0, 8.0]))
def test_equals_the_dense_power(case, steps, beta):
    scores, affinity, offsets = case
    wanted = dense_walk(scores, affinity, offsets, beta, steps)
    exact = random_walk(scores, affinity, offsets, beta=beta, steps=steps, tolerance=0)
    torch.testing.assert_close(exact, wanted, rtol=1e-9, atol=1e-12)
    short = random_walk(scores, affinity, offsets, beta=beta, steps=steps)
    torch.testing.assert_close(short, wanted, rtol=0, atol=2e-6)


@given(walks())
def test_stays_in_range_and_keeps_constants(case):
    scores, affinity, offsets = case
    scores[:, 0] = 0.7
    walked = random_walk(scores.float(), affinity.float(), offsets, steps=256)
    torch.testing.assert_close(walked[:, 0], scores[:, 0].float())
    for reduce in (torch.amin, torch.amax):
        bound = reduce(scores.float(), (2, 3), keepdim=True)
        beyond = (walked < bound) if reduce is torch.amin else (walked > bound)
        assert not beyond.any()


@given(walks())
def test_rows_of_the_sparse_matrix_are_the_dense_columns(case):
    _, affinity, offsets = case
    matrix = transition(affinity, offsets, beta=3.0).to_dense()
    pixels = affinity.shape[2] * affinity.shape[3]
    for n, pairs in enumerate(affinity):
        block = slice(n * pixels, (n + 1) * pixels)
        wanted = torch.from_numpy(dense_matrix(pairs, offsets, 3.0)).T
        torch.testing.assert_close(matrix[block, block], wanted)
    assert torch.count_nonzero(matrix) <= len(affinity) * pixels * (2 * len(offsets) + 1)


@pytest.mark.parametrize("tolerance", [0, 1e-7])
def test_published_walk(tolerance):
    golden = np.load(GOLDEN / "psa_random_walk.npz")
    offsets = half_plane_offsets(5)
    parts = [
        F.elu(
            F.conv2d(
                torch.from_numpy(golden[f"conv{i}"]),
                torch.from_numpy(golden[f"w.f8_{i - 1}.weight"]),
            )
        )
        for i in (4, 5, 6)
    ]
    features = F.elu(F.conv2d(torch.cat(parts, 1), torch.from_numpy(golden["w.f9.weight"])))
    affinity = pairwise_affinity(features, offsets, borders="published")
    sparse = torch.from_numpy(golden["aff_sparse"])
    torch.testing.assert_close(affinity[:, :, :8, 4:10].flatten(2), sparse, rtol=1e-5, atol=1e-6)
    scores = torch.from_numpy(golden["cam_pooled"]).unsqueeze(0)
    beta, steps = float(golden["beta"]), 2 ** int(golden["logt"])
    walked = random_walk(scores, affinity, offsets, beta=beta, steps=steps, tolerance=tolerance)
    wanted = torch.from_numpy(golden["cam_rw"])
    torch.testing.assert_close(walked[0], wanted, rtol=1e-3, atol=1e-6)
    assert np.array_equal(walked[0].argmax(0).numpy(), golden["pred"])
    everywhere = random_walk(scores, pairwise_affinity(features, offsets), offsets, steps=steps)
    assert (everywhere[0] - wanted).abs().max() > 1e-3  # borders do matter here


@given(st.integers(1, 300), st.sampled_from([1e-3, 1e-6]))
def test_chebyshev_sum_is_the_power(steps, tolerance):
    coefficients = power_coefficients(steps, tolerance)
    x = np.linspace(-1, 1, 201)
    error = np.abs(np.polynomial.chebyshev.chebval(x, coefficients) - x**steps)
    assert error.max() <= 2 * tolerance
    assert sum(coefficients) == pytest.approx(1)
    assert len(coefficients) - 1 <= np.sqrt(2 * steps * np.log(2 / tolerance)) + 2


def test_classes_without_scores_stay_zero_and_nothing_is_changed():
    offsets = half_plane_offsets(3)
    scores = torch.zeros(2, 3, 4, 5)
    scores[1, 1, 2, 2] = 1
    affinity = torch.rand(2, len(offsets), 4, 5)
    before = scores.clone(), affinity.clone()
    walked = random_walk(scores, affinity, offsets)
    assert walked.count_nonzero() == walked[1, 1].count_nonzero() == 20
    assert torch.equal(scores, before[0])
    assert torch.equal(affinity, before[1])
    assert not random_walk(torch.zeros_like(scores), affinity, offsets).any()
    assert random_walk(scores[:0], affinity[:0], offsets).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    offsets = half_plane_offsets(3)
    walked = random_walk(
        torch.rand(1, 2, 5, 5).to(dtype), torch.rand(1, 12, 5, 5).to(dtype), offsets
    )
    assert walked.dtype == torch.float32
    assert walked.isfinite().all()


@pytest.mark.parametrize(
    ("scores", "planes", "options", "message"),
    [
        (torch.zeros(2, 3, 3), 12, {}, "scores: want float"),
        (torch.zeros(1, 2, 3, 3), 5, {}, r"affinity: want .*\(1, 12, 3, 3\)"),
        (torch.zeros(1, 2, 3, 3), 12, {"beta": 0}, "want beta > 0"),
        (torch.zeros(1, 2, 3, 3), 12, {"steps": -1}, "want beta > 0, steps >= 0"),
        (torch.zeros(1, 2, 3, 3), 12, {"tolerance": 1.0}, "tolerance in"),
    ],
)
def test_errors_say_what_was_wanted(scores, planes, options, message):
    affinity = torch.zeros(1, planes, 3, 3)
    with pytest.raises(SegmendError, match=message):
        random_walk(scores, affinity, half_plane_offsets(3), **options)
