"""What the segmenter learns from composed labels, and what the labels themselves are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError

Dice = Literal["published", "foreground", "none"]

SMOOTH = 1e-5  # published: keeps the Dice of a channel without pixels defined
EPSILON = 1e-6  # published: keeps the meta-objective's logarithm finite


def level_weights(levels: int) -> tuple[float, ...]:
    """Deep supervision: 1, ½, ¼, … with the last 0, to sum 1; (1,) for a single level.

    Source: the published code (four levels), as nnU-Net.
    """
    if levels < 1:
        raise SegmendError(f"levels: want at least 1, got {levels}")
    if levels == 1:
        return (1.0,)
    weights = [2.0**-level for level in range(levels - 1)]
    return (*(weight / sum(weights) for weight in weights), 0.0)


def context_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor | Sequence[Tensor],
    valid: Tensor | Sequence[Tensor] | None = None,
    *,
    num_classes: int,
    dice: Dice = "published",
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy minus soft Dice on composed labels, summed over levels of deep supervision.

    Args:
        logits: float (N, M, *size), or one such tensor a level, full resolution first.
        labels: soft labels of the same shapes, of `compose_context_labels`; a gradient in them is
            what the meta-gradient needs.
        valid: bool (N, *size), alike; an ignored pixel is in no sum and no count. None: all.
        num_classes: the background included.
        dice: "published": Dice of every channel but context 0, so the foreground's share falls as
            contexts are added. "foreground": of the foreground's channels. "none": cross-entropy
            alone.
        weights: one a level; None: `level_weights`. A level of weight 0 is not looked at.
    Returns:
        Scalar, at least float32. The cross-entropy is a mean over valid pixels of all images, Dice
        a mean over images and channels; it enters as -Dice, so that the loss can be negative.
    Raises:
        SegmendError: shapes or options that do not fit.
    Source: L of the published code. With one context both Dice options are the ordinary loss.
    """
    scores, truths = _levels(logits), _levels(labels)
    inside = [None] * len(scores) if valid is None else list(_levels(valid))
    weights = level_weights(len(scores)) if weights is None else weights
    if not len(scores) == len(truths) == len(inside) == len(weights):
        raise SegmendError(
            f"context loss: want one entry a level, got {len(scores)} logits, {len(truths)} "
            f"labels, {len(inside)} valid, {len(weights)} weights"
        )
    if dice not in get_args(Dice):
        raise SegmendError(f"dice: want one of {get_args(Dice)}, got {dice!r}")
    parts = [
        weight * _level_loss(z, y, v, num_classes=num_classes, dice=dice)
        for z, y, v, weight in zip(scores, truths, inside, weights, strict=True)
        if weight
    ]
    if not parts:
        raise SegmendError(f"weights: want one that is not 0, got {tuple(weights)}")
    return torch.stack(parts).sum()


def meta_objective(
    logits: Tensor, target: Tensor, *, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """Cross-entropy of every foreground channel against all the rest, on true labels.

    Args:
        logits: float (N, M, *size), foreground in channels 1 to num_classes - 1.
        target: int64 (N, *size), labels or `ignore_index`; no context labels are in it.
    Returns:
        Scalar, at least float32: sum over foreground classes, mean over valid pixels.
    Raises:
        SegmendError: shapes that do not fit.
    Source: L_val of the published code.
    """
    if target.shape != (len(logits), *logits.shape[2:]) or logits.shape[1] < num_classes:
        raise SegmendError(
            f"meta-objective: want logits (N, M >= {num_classes}, *size) and target (N, *size), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    valid = target != ignore_index
    scores = _at_least_float32(logits).masked_fill(~valid.unsqueeze(1), 0)
    probs = scores.softmax(1)[:, 1:num_classes]
    truth = torch.stack([target == c for c in range(1, num_classes)], dim=1)
    chosen = torch.where(truth, probs, 1 - probs)
    each = -(chosen + EPSILON).log().masked_fill(~valid.unsqueeze(1), 0)
    return each.sum() / valid.sum().clamp(min=1)


def _level_loss(
    logits: Tensor, labels: Tensor, valid: Tensor | None, *, num_classes: int, dice: Dice
) -> Tensor:
    _check_level(logits, labels, valid, num_classes)
    scores = _at_least_float32(logits)
    truth = labels.to(scores.dtype)
    if valid is not None:
        outside = ~valid.unsqueeze(1)
        scores, truth = scores.masked_fill(outside, 0), truth.masked_fill(outside, 0)
    log_probs = F.log_softmax(scores, dim=1)
    count = scores[:, 0].numel() if valid is None else valid.sum().clamp(min=1)
    total = -(truth * log_probs).sum() / count
    if dice == "none":
        return total
    stop = scores.shape[1] if dice == "published" else num_classes
    probs, truth = log_probs[:, 1:stop].exp(), truth[:, 1:stop]
    if valid is not None:
        probs = probs.masked_fill(~valid.unsqueeze(1), 0)
    both = (probs * truth).flatten(2).sum(2)
    either = probs.flatten(2).sum(2) + truth.flatten(2).sum(2)
    return total - ((2 * both + SMOOTH) / (either + SMOOTH)).mean()


def _levels(tensors: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else tensors


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_level(logits: Tensor, labels: Tensor, valid: Tensor | None, num_classes: int) -> None:
    fits = valid is None or valid.shape == (len(logits), *logits.shape[2:])
    if logits.shape != labels.shape or not fits or not 2 <= num_classes <= logits.shape[1]:
        raise SegmendError(
            "context loss: want logits and labels (N, M, *size), valid (N, *size) and 2 <= "
            f"num_classes <= M, got {tuple(logits.shape)}, {tuple(labels.shape)}, "
            f"{None if valid is None else tuple(valid.shape)} and {num_classes}"
        )
