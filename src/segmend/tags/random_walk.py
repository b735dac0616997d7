"""Class scores spread along affinities: a random walk of many steps, without its dense matrix."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.tags.affinity import Offset, existing_pairs, overlap, shifted

BETA = 8.0
STEPS = 64
"""2 ** logt; logt is 6 in SEAM and HFPL, 8 (256 steps) in AffinityNet and IRN."""


def random_walk(
    scores: Tensor,
    affinity: Tensor,
    offsets: Sequence[Offset],
    *,
    beta: float = BETA,
    steps: int = STEPS,
    tolerance: float = 1e-7,
) -> Tensor:
    """Spread class scores over alike neighbours: scores times T^steps, T = A^beta / column sums.

    A is symmetric with the affinities of all pairs and a diagonal of 1, so that each step
    replaces a score by a weighted mean of its neighbourhood. Nothing of size (pixels, pixels) is
    made: one step costs pixels * 2 D products per class, a class without any score costs nothing,
    and instead of `steps` products the walk takes about sqrt(2 * steps * log(2 / tolerance)),
    because x^steps on [-1, 1], where T has its eigenvalues, is a short Chebyshev sum.

    Args:
        scores: float (N, K, H, W), background included where it takes part.
        affinity: float in [0, 1], (N, D, H, W), of `pairwise_affinity` or `boundary_affinity`.
            Pairs that do not exist are 0. With `borders="published"` pixels near the border have
            fewer neighbours, as in AffinityNet; "all" is this room's default.
        offsets: those of `affinity`; maps may be smaller than their radius.
        beta: exponent of the affinities, > 0; 8 in AffinityNet, 10 in IRN.
        steps: at least 0; see `STEPS`.
        tolerance: weight of the Chebyshev sum that is left out; 0 takes every step one by one.
    Returns:
        (N, K, H, W), at least float32, between the least and the largest score of each class.
        No gradient flows: the walk is for inference.
    Raises:
        SegmendError: shapes or numbers are not as above.
    Reference:
        Ahn and Kwak, CVPR 2018 (AffinityNet); the sum: Sachdeva and Vishnoi, Faster Algorithms via
        Approximation Theory (2014).
    """
    _check(scores, affinity, offsets, beta, steps, tolerance)
    device, (batch, classes, height, width) = scores.device, scores.shape
    scores = scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
    flat = scores.permute(0, 2, 3, 1).reshape(-1, classes)
    active = (flat != 0).any(0)
    if steps == 0 or flat.numel() == 0 or not bool(active.any()):
        return scores.clone()
    here = device if device.type in ("cpu", "cuda") else torch.device("cpu")  # CSR products
    matrix = transition(affinity.to(here, scores.dtype), offsets, beta=beta)
    start = flat[:, active].to(here).contiguous()
    walked = _power(matrix, start, steps, tolerance)
    walked = walked.reshape(batch, height * width, -1)
    bounds = start.reshape(batch, height * width, -1)
    # A mean of scores cannot leave their range: cut off what rounding and the sum's tail add.
    walked = walked.clamp(bounds.amin(1, keepdim=True), bounds.amax(1, keepdim=True))
    result = torch.zeros_like(flat)
    result[:, active] = walked.reshape(batch * height * width, -1).to(device)
    return result.reshape(batch, height, width, classes).permute(0, 3, 1, 2).contiguous()


def transition(affinity: Tensor, offsets: Sequence[Offset], *, beta: float = BETA) -> Tensor:
    """One step of the walk as a sparse matrix: CSR (N * H * W, N * H * W), its rows sum to 1.

    Row i holds the weights with which pixel i takes its neighbours' scores: the transpose of the
    published column-normalised matrix. Images are blocks on the diagonal. Arguments:
    `random_walk`.
    """
    batch, _, height, width = affinity.shape
    pixels = height * width
    # Neighbours in the order of their flat index, so that each row's columns come out sorted.
    ring = [(-dy, -dx) for dy, dx in reversed(offsets)] + [(0, 0), *offsets]
    weights = _ring_weights(affinity.detach() ** beta, offsets)
    # Which entries of (pixel, neighbour) exist and where they point is the same for all images.
    exists = existing_pairs(height, width, ring, device=affinity.device).flatten(1).T.contiguous()
    entries = exists.flatten().nonzero().flatten()
    jump = torch.tensor([dy * width + dx for dy, dx in ring], device=affinity.device)
    place = torch.arange(pixels, device=affinity.device).unsqueeze(1)
    columns = (place + jump).flatten()[entries]
    image = torch.arange(batch, device=affinity.device).unsqueeze(1)
    ends = (exists.sum(1).cumsum(0) + len(entries) * image).flatten()
    values = weights.flatten(2).transpose(1, 2).reshape(batch, -1)[:, entries]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.cat([ends.new_zeros(1), ends]),
            (columns + pixels * image).flatten(),
            values.flatten(),
            size=(batch * pixels, batch * pixels),
            check_invariants=False,  # said aloud, or torch warns
        )


def _ring_weights(power: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """Weight of each neighbour and, in the middle, of the pixel itself: (N, 2 D + 1, H, W)."""
    batch, count, height, width = power.shape
    weights = power.new_zeros(batch, 2 * count + 1, height, width)
    weights[:, count] = 1
    weights[:, count + 1 :] = power
    for d, offset in enumerate(offsets):
        sources = overlap(offset, height, width)
        targets = shifted(*sources, offset)
        weights[(slice(None), count - 1 - d, *targets)] = power[(slice(None), d, *sources)]
    return weights / weights.sum(1, keepdim=True)


def power_coefficients(steps: int, tolerance: float) -> list[float]:
    """Chebyshev coefficients c with x^steps = sum of c_k T_k(x) on [-1, 1], but for `tolerance`.

    c_k is the probability that a walk of `steps` fair steps on the line ends k from its start, so
    all are positive and sum to 1: the tail left out is the error, and dividing by what is kept
    makes the sum exact at x = 1, where the constant maps are.
    """
    ends = range(steps % 2, steps + 1, 2)
    coefficients, kept = [0.0] * (steps + 1), 0.0
    for end in ends:
        log = math.lgamma(steps + 1) - steps * math.log(2)
        log -= math.lgamma((steps - end) // 2 + 1) + math.lgamma((steps + end) // 2 + 1)
        coefficients[end] = math.exp(log) * (2 if end else 1)
        kept += coefficients[end]
        if 1 - kept <= tolerance:
            break
    return [c / kept for c in coefficients[: end + 1]]


def _power(matrix: Tensor, start: Tensor, steps: int, tolerance: float) -> Tensor:
    """`matrix` ** `steps` times `start`."""
    if tolerance == 0:
        for _ in range(steps):
            start = matrix @ start
        return start
    coefficients = power_coefficients(steps, tolerance)
    before, now = start, matrix @ start
    total = coefficients[0] * before
    for degree, coefficient in enumerate(coefficients[1:], 1):
        if degree > 1:
            before, now = now, torch.sparse.addmm(before, matrix, now, beta=-1, alpha=2)
        if coefficient:
            total.add_(now, alpha=coefficient)
    return total


def _check(
    scores: Tensor,
    affinity: Tensor,
    offsets: Sequence[Offset],
    beta: float,
    steps: int,
    tolerance: float,
) -> None:
    if scores.ndim != 4 or not scores.is_floating_point():
        raise SegmendError(
            f"scores: want float (N, K, H, W), got {scores.dtype} {tuple(scores.shape)}"
        )
    wanted = (len(scores), len(offsets), *scores.shape[2:])
    if affinity.shape != wanted:
        raise SegmendError(
            f"affinity: want (N, offsets, H, W) = {wanted} like scores, got {tuple(affinity.shape)}"
        )
    if not (beta > 0 and steps >= 0 and 0 <= tolerance < 1):
        raise SegmendError(
            "random_walk: want beta > 0, steps >= 0 and tolerance in [0, 1), "
            f"got {beta}, {steps} and {tolerance}"
        )
