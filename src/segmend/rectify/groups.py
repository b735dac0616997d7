"""The in-candidate and out-of-candidate groups of classes, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.rectify.correlation import candidate_prior

Dropped = Literal["out", "neutral"]
BackgroundJoins = Literal["always", "leads", "never"]


class Groups(NamedTuple):
    """Bool (M, K) each, disjoint: classes to rise above the others, and the others."""

    inside: Tensor
    outside: Tensor


Splitter = Callable[[Tensor, Tensor], Groups]
"""(scores (M, K), candidates bool (M, K)) → groups of each pixel."""


def all_candidates(scores: Tensor, candidates: Tensor) -> Groups:
    """The fixed split: every candidate against every other class."""
    return Groups(candidates, ~candidates)


@torch.no_grad()
def split_groups(
    scores: Tensor,
    candidates: Tensor,
    correlation: Tensor | None = None,
    *,
    gamma: float = 0.5,
    rho: float = 0.3,
    dropped: Dropped = "out",
    background: int | None = 0,
    background_joins: BackgroundJoins = "always",
) -> Groups:
    """The adaptive split: candidates that suit the pixel against all others.

    A candidate stays in if r >= rho * the best candidate's r, with r = prior^gamma *
    posterior^(1 - gamma): the prior annotation correlation with the class that the pixel wears
    (`candidate_prior`), and the posterior prediction correlation, the softmax of the scores among
    the candidates. The best one always stays.

    Args:
        scores: logits of the pixels, float (M, K).
        candidates: bool (M, K).
        correlation: (C, C) from `LabelCorrelation.matrix`; None leaves the prior out (gamma 0).
        gamma: share of the prior in r, 0 to 1.
        rho: 0 keeps every candidate, 1 only the best.
        dropped: candidates that do not stay join the others ("out": the groups are a partition,
            as the paper's abstract says) or neither ("neutral": a true class is not pushed down).
        background: its label, or None.
        background_joins: "leads" lets the background in only where it is the candidate with the
            highest posterior, "never" nowhere; it is then in neither group. Ours, against the
            flight into the background.
    Returns:
        `Groups`; `inside` is empty only where no candidate may join.
    Raises:
        SegmendError: an option out of range.
    Source:
        Cheng et al., CVPR 2023 (OCR). The paper's formulas could not be read: the product, its
        exponents and the threshold are inferred.
    """
    _check(gamma, rho, dropped, background_joins)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    masked = scores.masked_fill(~candidates, -torch.inf)
    posterior = masked.log_softmax(1)  # NaN without candidates, masked below
    allowed = candidates
    if background is not None and background_joins != "always":
        allowed = candidates.clone()
        leads = masked.argmax(1) == background
        allowed[:, background] &= leads & (background_joins == "leads")
    suits = posterior if correlation is None else (1 - gamma) * posterior
    if correlation is not None and gamma > 0:
        leaders = scores.masked_fill(candidates, -torch.inf).argmax(1)
        prior = candidate_prior(correlation.to(scores), leaders, candidates, background=background)
        suits = suits + gamma * prior.log()
    suits = suits.masked_fill(~allowed, -torch.inf)
    best = suits.amax(1, keepdim=True)
    inside = allowed & (suits >= best + math.log(rho)) if rho > 0 else allowed
    outside = ~inside if dropped == "out" else ~candidates
    if background is not None and background_joins != "always":
        outside = outside.clone()
        outside[:, background] = False
    return Groups(inside, outside)


@dataclass(frozen=True)
class AdaptiveSplit:
    """`split_groups` with its options, as `rectification_loss` wants it."""

    correlation: Tensor | None = None
    gamma: float = 0.5
    rho: float = 0.3
    dropped: Dropped = "out"
    background: int | None = 0
    background_joins: BackgroundJoins = "always"

    def __post_init__(self) -> None:
        _check(self.gamma, self.rho, self.dropped, self.background_joins)

    def __call__(self, scores: Tensor, candidates: Tensor) -> Groups:
        return split_groups(
            scores,
            candidates,
            self.correlation,
            gamma=self.gamma,
            rho=self.rho,
            dropped=self.dropped,
            background=self.background,
            background_joins=self.background_joins,
        )


def _check(gamma: float, rho: float, dropped: str, background_joins: str) -> None:
    for name, value in (("gamma", gamma), ("rho", rho)):
        if not 0 <= value <= 1:
            raise SegmendError(f"{name}: want 0 to 1, got {value}")
    if dropped not in get_args(Dropped):
        raise SegmendError(f"dropped: want one of {get_args(Dropped)}, got {dropped!r}")
    if background_joins not in get_args(BackgroundJoins):
        raise SegmendError(
            f"background_joins: want one of {get_args(BackgroundJoins)}, got {background_joins!r}"
        )
