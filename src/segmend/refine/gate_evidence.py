"""What a choice is worth on images that had no say in it: the out-of-bag estimate of a gain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmend.refine.gate_scores import Scores

ROUNDS = 200
"""Resamples in which the choice is made anew: each image is out of about 74 of them."""


def out_of_bag_confidence(
    base: Scores, choices: Sequence[Scores], *, num_resamples: int, seed: int
) -> float:
    """How sure it is that choosing among so many ways, and their thresholds, beats the base.

    The best of eleven ways scores above the base on the images that it was picked on even if all
    are worthless. So the choice is repeated in bootstrap resamples, for the base's threshold as
    for the way and its own, and its sums are taken on the images that the resample left out
    (Efron and Tibshirani, Improvements on Cross-Validation, JASA 1997, section 4). An image's sums
    are averaged over the resamples without it; the averages are then resampled like any others.

    Args:
        base, choices: scores of the same N images, at all shifts of the threshold.
    Returns:
        share of resamples in which the out-of-bag sums beat the base's both pooled and on the
        average image; 0 where no image was ever left out.
    """
    drawn = resamples(len(base.parts), ROUNDS, seed=seed + 1)
    best = [_best_shifts(choice, drawn) for choice in choices]
    ways = torch.stack([score for _, score in best]).argmax(0)
    shifts = torch.stack([shift for shift, _ in best])[ways, torch.arange(ROUNDS)]
    stack = torch.stack([choice.parts.double() for choice in choices])
    sides = (
        base.parts.double()[:, _best_shifts(base, drawn)[0]].transpose(0, 1),
        stack[ways, :, shifts],
    )
    out = (drawn == 0).double()
    seen = out.sum(0) > 0
    if not seen.any():
        return 0.0
    share = out[:, seen] / out[:, seen].sum(0)
    judges = resamples(int(seen.sum()), num_resamples, seed=seed)
    scores = []
    for parts in sides:  # (ROUNDS, N, classes, 2)
        kept = parts[:, seen]
        average = Scores(torch.einsum("rn,rnct->nct", share, kept).unsqueeze(1))
        own = Scores(kept.flatten(0, 1).unsqueeze(1)).per_image().view(share.shape)
        scores.append((average.pooled(judges)[:, 0], judges @ (share * own).sum(0)))
    (pooled_base, own_base), (pooled, own) = scores
    return float(((pooled > pooled_base) & (own > own_base)).double().mean())


def resamples(count: int, num_resamples: int, *, seed: int) -> Tensor:
    """How often each of `count` images is drawn: float64 (num_resamples, count)."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (num_resamples, count), generator=generator)
    weights = torch.zeros(num_resamples, count, dtype=torch.float64)
    return weights.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))


def _best_shifts(scores: Scores, weights: Tensor) -> tuple[Tensor, Tensor]:
    """In each resample (R, N): the best shift, and its pooled score; both (R,)."""
    pooled = scores.pooled(weights)
    return middle_of_best(pooled), pooled.amax(1)


def middle_of_best(pooled: Tensor) -> Tensor:
    """(..., shifts) → (...,) the shift with the highest score, the middle one of equals."""
    top = pooled >= pooled.amax(-1, keepdim=True) - 1e-9
    middle = top.sum(-1, keepdim=True) // 2 + 1
    return (top & (top.cumsum(-1) == middle)).long().argmax(-1)
