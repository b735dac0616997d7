"""Soft labels with several backgrounds: what the segmenter learns from context labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError

_Pool = dict[int, Callable[..., Tensor]]
_AVERAGE: _Pool = {2: F.avg_pool2d, 3: F.avg_pool3d}
_AVERAGE_TO: _Pool = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_MAXIMUM: _Pool = {2: F.max_pool2d, 3: F.max_pool3d}
_MAXIMUM_TO: _Pool = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


class ContextTargets(NamedTuple):
    """Composed labels (N, M, *size) and bool valid (N, *size), one of each a level of logits."""

    labels: list[Tensor]
    valid: list[Tensor]


def count_channels(*, num_classes: int, num_context: int) -> int:
    """Logit channels M = num_classes + num_context - 1; SegmendError for impossible counts."""
    if num_classes < 2 or num_context < 1:
        raise SegmendError(
            "context labels: want num_classes >= 2 (background included) and num_context >= 1, "
            f"got {num_classes} and {num_context}"
        )
    return num_classes + num_context - 1


def compose_context_labels(
    target: Tensor,
    context: Tensor,
    *,
    num_classes: int,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """One-hot on the foreground; on the background the context labels as far as the mask goes.

    Args:
        target: int64 (N, *size), labels 0 (background) to num_classes - 1 or `ignore_index`; two
            or three axes of size.
        context: float (N, K, *size), probabilities of the context classes.
        num_classes: the background included.
        mask: float (N, *size) in [0, 1], of `distance_mask`. None: 1 everywhere. Where it is 0,
            background is context 0 for certain.
    Returns:
        (N, M, *size), M = num_classes + K - 1, channels in the order context 0, foreground 1 to
        num_classes - 1, context 1 to K - 1. Rows sum to 1; 0 on ignored pixels. Its gradient in
        context is that of the mask on background pixels.
    Raises:
        SegmendError: shapes that do not fit together, or a label that is not among the above.
    Source: y = m u + (1 - m) e_0 of the published code.
    """
    count_channels(num_classes=num_classes, num_context=context.shape[1])
    _check_shapes(target, context, mask)
    _check_labels(target, num_classes, ignore_index)
    background = (target == 0).unsqueeze(1)
    shares = context.masked_fill(~background, 0)
    first, others = shares[:, :1], shares[:, 1:]
    if mask is not None:
        near = mask.detach().to(context).unsqueeze(1)
        first, others = first * near + (1 - near) * background, others * near
    foreground = torch.stack([target == c for c in range(1, num_classes)], dim=1)
    return torch.cat((first, foreground.to(context), others), dim=1)


def context_targets(
    target: Tensor,
    context: Tensor,
    sizes: Sequence[Sequence[int]],
    *,
    num_classes: int,
    mask: Tensor | None = None,
    ignore_index: int = 255,
) -> ContextTargets:
    """`compose_context_labels` at every size of deep supervision.

    Args:
        sizes: of the logits, one a level. Context is average-pooled to each, target taken at the
            nearest pixel, the mask min-pooled; by 1, 2, 4, … where that gives the size.
    Other arguments, errors and source as in `compose_context_labels`.
    """
    _check_shapes(target, context, mask)
    labels, valid = [], []
    for size in sizes:
        small = nearest(target, size)
        share = mask if mask is None else min_pool(mask, size)
        labels.append(
            compose_context_labels(
                small,
                average_pool(context, size),
                num_classes=num_classes,
                mask=share,
                ignore_index=ignore_index,
            )
        )
        valid.append(small != ignore_index)
    return ContextTargets(labels, valid)


def average_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Float (N, K, *any) averaged to (N, K, *size)."""
    axes, kernel = x.ndim - 2, _kernel(x.shape[2:], size)
    if kernel is None:
        return _AVERAGE_TO[axes](x, tuple(size))
    return x if max(kernel) == 1 else _AVERAGE[axes](x, kernel)


def min_pool(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Float (N, *any), its least value in each cell of (N, *size)."""
    axes, kernel = mask.ndim - 1, _kernel(mask.shape[1:], size)
    negative = -mask.unsqueeze(1)
    if kernel is None:
        return -_MAXIMUM_TO[axes](negative, tuple(size)).squeeze(1)
    return mask if max(kernel) == 1 else -_MAXIMUM[axes](negative, kernel).squeeze(1)


def nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Integer (N, *any), the label at the centre of each cell of (N, *size)."""
    if target.shape[1:] == tuple(size):
        return target
    small = F.interpolate(target.unsqueeze(1).float(), size=tuple(size), mode="nearest-exact")
    return small.squeeze(1).to(target.dtype)


def _kernel(size: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """Powers of two that pool size to wanted, as published; None if there are none."""
    kernel = []
    for have, want in zip(size, wanted, strict=True):
        powers = (2**power for power in range(have.bit_length()))
        found = next((power for power in powers if have // power == want), None)
        if found is None:
            return None
        kernel.append(found)
    return tuple(kernel)


def _check_shapes(target: Tensor, context: Tensor, mask: Tensor | None) -> None:
    fits = target.ndim in (3, 4) and not target.is_floating_point()
    if not fits or context.shape != (len(target), context.shape[1], *target.shape[1:]):
        raise SegmendError(
            "context labels: want integer target (N, H, W) or (N, H, W, D) and context "
            f"(N, K, same size), got {target.dtype} {tuple(target.shape)} and "
            f"{tuple(context.shape)}"
        )
    if mask is not None and mask.shape != target.shape:
        raise SegmendError(
            f"mask: want the shape of target, {tuple(target.shape)}, got {tuple(mask.shape)}"
        )


def _check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = (target != ignore_index) & ((target < 0) | (target >= num_classes))
    if wrong.any():
        raise SegmendError(
            f"target: want labels 0 to {num_classes - 1} or {ignore_index} (ignored), got "
            f"{int(target[wrong][0])}; set num_classes or ignore_index"
        )
