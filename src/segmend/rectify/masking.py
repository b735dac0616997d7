"""Masking of predictions by tags, true or predicted: the alternative without training."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.rectify.candidates import check_logits

Masking = Literal["all", "keep"]


def mask_probabilities(
    probs: Tensor, candidates: Tensor, *, mode: Masking = "keep", background: int | None = 0
) -> Tensor:
    """Probabilities with those of impossible classes given to the possible ones.

    Args:
        probs: float in [0, 1], (N, K, H, W), summing to 1 over K.
        candidates: bool (N, K), of true or predicted tags.
        mode: "all" sets impossible classes to 0 and scales the rest to a sum of 1, so that most
            of what was impossible goes to the background. "keep" leaves the background's share as
            it is and divides the foreground's among its candidates: foreground or background is
            decided first. Without a background they are the same.
    Returns:
        As `probs`. Where no candidate is left (or, with "keep", none in the foreground) all goes
        to the background; without a background such an image stays as it was.
    Raises:
        SegmendError: shapes, types or a mode that do not fit.
    """
    check_logits(probs, candidates, None)
    _check_mode(mode)
    allowed = candidates.view(*candidates.shape, *(1,) * (probs.ndim - 2))
    if background is None:
        allowed = allowed | ~candidates.any(1).view(-1, *(1,) * (probs.ndim - 1))
    if mode == "keep" and background is not None:
        return _kept(probs, allowed, background)
    masked = probs.masked_fill(~allowed, 0.0)
    total = masked.sum(1, keepdim=True)
    scaled = masked / total.clamp_min(torch.finfo(probs.dtype).tiny)
    shared = allowed / allowed.sum(1, keepdim=True).clamp_min(1)
    return torch.where(total > 0, scaled, shared.to(probs.dtype))


def masked_labels(
    probs: Tensor, candidates: Tensor, *, mode: Masking = "keep", background: int | None = 0
) -> Tensor:
    """Labels int64 (N, H, W) among the candidates.

    "all": the likeliest candidate. "keep": background exactly where it is the likeliest of *all*
    classes, elsewhere the likeliest candidate of the foreground; an image without one is
    background. The largest of `mask_probabilities` is another where the background leads, but not
    over the rest together, which one candidate may inherit there. Arguments, without a background,
    and errors: as in `mask_probabilities`.
    """
    check_logits(probs, candidates, None)
    _check_mode(mode)
    allowed = candidates.view(*candidates.shape, *(1,) * (probs.ndim - 2))
    if background is None:
        allowed = allowed | ~candidates.any(1).view(-1, *(1,) * (probs.ndim - 1))
        return probs.masked_fill(~allowed, -torch.inf).argmax(1)
    scores = probs.masked_fill(~allowed, -torch.inf)
    if mode == "all":
        return scores.argmax(1)
    behind = probs.argmax(1) == background
    scores[:, background] = -torch.inf
    labels = scores.argmax(1)
    nothing = scores.amax(1) == -torch.inf
    return labels.masked_fill(behind | nothing, background)


def _kept(probs: Tensor, allowed: Tensor, background: int) -> Tensor:
    chosen = allowed.clone()
    chosen[:, background] = False
    inside = probs.masked_fill(~chosen, 0.0)
    foreground = 1 - probs[:, background : background + 1]
    total = inside.sum(1, keepdim=True)
    # Where the candidates have no mass at all they share the foreground's alike.
    alike = (chosen / chosen.sum(1, keepdim=True).clamp_min(1)).to(probs.dtype)
    share = torch.where(total > 0, inside / total.clamp_min(torch.finfo(probs.dtype).tiny), alike)
    result = share * foreground
    result[:, background] = 1 - result.sum(1)
    return result


def _check_mode(mode: str) -> None:
    if mode not in get_args(Masking):
        raise SegmendError(f"mode: want one of {get_args(Masking)}, got {mode!r}")
