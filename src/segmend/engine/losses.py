"""Training losses of the base segmenters; an ignored pixel is in no sum and no count."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError


def segmentation_loss(
    logits: Tensor, target: Tensor, *, loss: Literal["bce+dice", "bce", "ce"], ignore_index: int
) -> Tensor:
    """The training loss of a batch, a scalar in float32; a batch without valid pixels gives 0.

    Args:
        logits: float (N, C, H, W); C = 1 for the binary losses.
        target: int64 (N, H, W), labels or `ignore_index`.
        loss: "bce+dice" is `bce_loss` + ½ `dice_loss`.
    Raises:
        SegmendError: shapes that do not fit.
    """
    if target.shape != (len(logits), *logits.shape[2:]):
        raise SegmendError(
            f"target: want (N, H, W) of logits {tuple(logits.shape)}, got {tuple(target.shape)}"
        )
    valid = target != ignore_index
    logits = logits.float()
    if loss == "ce":
        return cross_entropy(logits, target, valid)
    scores, positive = logits[:, 0], target == 1
    total = bce_loss(scores, positive, valid)
    return total + 0.5 * dice_loss(scores, positive, valid) if loss == "bce+dice" else total


def bce_loss(scores: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over valid pixels; scores float, the others bool (N, H, W)."""
    scores = scores.masked_fill(~valid, 0.0)
    each = F.binary_cross_entropy_with_logits(scores, positive.to(scores), reduction="none")
    return each.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def dice_loss(scores: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """1 − soft Dice of the foreground over all valid pixels of the batch.

    One pixel is added above and below the line, so that a batch without foreground is defined.
    Reference: Milletari et al., 3DV 2016, with plain sums below the line.
    """
    prob = scores.masked_fill(~valid, 0.0).sigmoid().masked_fill(~valid, 0.0)
    truth = (positive & valid).to(prob)
    return 1 - (2 * (prob * truth).sum() + 1) / (prob.sum() + truth.sum() + 1)


def cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy over valid pixels; logits (N, C, H, W), target int64 (N, H, W)."""
    logits = logits.masked_fill(~valid.unsqueeze(1), 0.0)
    each = F.cross_entropy(logits, target.masked_fill(~valid, 0), reduction="none")
    return each.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)
