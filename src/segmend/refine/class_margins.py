"""One class against the rest: log-odds of every class, and who gets a pixel that several claim."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.errors import SegmendError


def log_odds(logits: Tensor, *, image: int = 0) -> Tensor:
    """z_c - logsumexp of the other z: float32 or float64 (N, C, H, W), finite.

    `logits` may hold -inf; odds of 0 and infinity become a quarter of the dtype's range, so that
    differences stay finite. `image` is the index that an error names.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    highest, top = wide.max(dim=1, keepdim=True)
    if not bool(torch.isfinite(highest).all()):
        raise SegmendError(
            f"logits: NaN, +inf, or -inf in all classes at a valid pixel of image {image}; want "
            f"finite values, or mark such pixels as ignored in target"
        )
    powers = (wide - highest).exp()
    total = powers.sum(dim=1, keepdim=True)
    # For all but the highest class the rest contains exp(0) = 1, so nothing cancels; for the
    # highest the rest is summed by itself. Where two are equally high, both ways agree.
    odds = wide - highest - (total - powers).clamp_(min=1).log()
    rest = wide.scatter(1, top, float("-inf")).logsumexp(dim=1, keepdim=True)
    bound = torch.finfo(wide.dtype).max / 4
    return odds.scatter(1, top, highest - rest).clamp_(-bound, bound)


def claim(scores: Tensor, thresholds: Tensor) -> Tensor:
    """int64 (N, H, W): among classes with score > threshold the largest difference.

    `thresholds` broadcasts over `scores` (N, C, H, W) and may be infinite or NaN (never claims).
    Equal differences, such as the infinite one above -inf, go to the largest score, and so do
    pixels that no class claims.
    """
    claims = scores > thresholds
    margin = (scores - thresholds).masked_fill(~claims, float("-inf"))
    winners = claims & (margin == margin.amax(dim=1, keepdim=True))
    unclaimed = ~claims.any(dim=1, keepdim=True)
    return scores.masked_fill(~(winners | unclaimed), float("-inf")).argmax(dim=1)


def check_classes(logits: Tensor, target: Tensor, ignore_index: int) -> None:
    """Raise SegmendError unless `logits` and `target` are a pair for C >= 2 classes."""
    if logits.ndim != 4 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise SegmendError(
            f"logits: want float (N, C, H, W) with C >= 2, got {logits.dtype} "
            f"{tuple(logits.shape)}; for one foreground class use patch_pseudo_labels"
        )
    wanted = (len(logits), *logits.shape[2:])
    if target.shape != wanted or target.is_floating_point():
        raise SegmendError(
            f"target: want integers {wanted}, got {target.dtype} {tuple(target.shape)}"
        )
    bad = (target != ignore_index) & ((target < 0) | (target >= logits.shape[1]))
    if bool(bad.any()):
        image = int(bad.flatten(1).any(1).nonzero()[0])
        raise SegmendError(
            f"target: label {int(target[bad][0])} in image {image}; want 0 to "
            f"{logits.shape[1] - 1} or {ignore_index} (ignore_index)"
        )
