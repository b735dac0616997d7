"""From a class's map to its score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segmend.tags.mctformer import ranking_pool

Pooling = Literal["mean", "max", "ranking"]


def pool_scores(
    logits: Tensor, *, pooling: Pooling = "mean", valid: Tensor | None = None
) -> Tensor:
    """One score a class from its map.

    Args:
        logits: (N, C, h, w).
        pooling: "mean" is global average pooling; "ranking": see `ranking_pool`.
        valid: bool (N, h, w), the pixels that count; an image without any gives 0.
    Returns:
        (N, C).
    """
    if pooling == "ranking":
        return ranking_pool(logits, valid=valid)
    if valid is None:
        return logits.mean((2, 3)) if pooling == "mean" else logits.amax((2, 3))
    mask = valid.unsqueeze(1)
    count = mask.sum((2, 3))
    if pooling == "mean":
        return logits.masked_fill(~mask, 0).sum((2, 3)) / count.clamp_min(1)
    return logits.masked_fill(~mask, -torch.inf).amax((2, 3)).masked_fill(count == 0, 0)
