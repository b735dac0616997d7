"""Masks and targets seen patch by patch: checking a pair, applying thresholds, counting IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.patch_grid import PatchGrid, patch_grid
from segmend.refine.score_codes import FLOATS, is_quantised


def apply_thresholds(
    probs: Tensor, thresholds: Tensor, *, patch_size: int | tuple[int, int]
) -> Tensor:
    """bool (N, H, W): `probs > threshold` of every pixel's patch; false where that is NaN.

    `probs` and `patch_size` as given to `best_thresholds`, `thresholds` as returned by it.
    """
    grid = patch_grid(probs.shape[-2], probs.shape[-1], patch_size)
    if probs.ndim != 3 or thresholds.shape != (len(probs), grid.rows, grid.cols):
        raise SegmendError(
            f"thresholds: want (N, {grid.rows}, {grid.cols}) for probs {tuple(probs.shape)} and "
            f"patch_size {patch_size}, got {tuple(thresholds.shape)}"
        )
    scores = probs.to(torch.int32) if probs.dtype == torch.uint16 else probs
    return scores > grid.spread(thresholds)


def patch_iou(
    mask: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    epsilon: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """float64 (N, rows, cols): IoU of the bool `mask` (N, H, W) with `target` in every patch.

    `(TP + epsilon) / (union + epsilon)`; 1 if mask and target are empty, NaN if no pixel is valid.
    """
    if mask.dtype != torch.bool or mask.shape != target.shape or mask.ndim != 3:
        raise SegmendError(
            f"mask: want bool (N, H, W) in target's shape {tuple(target.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
    grid = patch_grid(mask.shape[1], mask.shape[2], patch_size)
    labels, valid = labels_and_valid(target, ignore_index)
    valid = torch.ones_like(mask) if valid is None else valid
    positive = labels == 1

    def count(where: Tensor) -> Tensor:
        return grid.fold(where.to(torch.uint8), fill=0).sum(1, dtype=torch.int64)

    union = count((mask | positive) & valid)
    iou = (count(mask & positive) + epsilon).double() / (union + epsilon).double()
    iou = iou.masked_fill(union == 0, 1.0).masked_fill(count(valid) == 0, float("nan"))
    return iou.view(len(mask), grid.rows, grid.cols)


def check_pair(probs: Tensor, target: Tensor, patch_size: int | tuple[int, int]) -> PatchGrid:
    """The grid over `probs`, after checking shapes and dtypes of both tensors."""
    got = f"got {probs.dtype} {tuple(probs.shape)}"
    if probs.ndim != 3 or not (probs.dtype in FLOATS or is_quantised(probs)):
        raise SegmendError(
            f"probs: want (N, H, W), float, uint8, uint16 or int32, {got}; "
            f"for (N, 1, H, W) pass probs[:, 0]"
        )
    if target.shape != probs.shape or target.is_floating_point() or target.is_complex():
        raise SegmendError(
            f"target: want integers {tuple(probs.shape)} as probs has, "
            f"got {target.dtype} {tuple(target.shape)}"
        )
    if target.device != probs.device:
        raise SegmendError(f"target: want it on {probs.device} as probs, got {target.device}")
    return patch_grid(probs.shape[1], probs.shape[2], patch_size)


def labels_and_valid(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Labels in {0, 1} and bool `valid`, None if all pixels are; checks the labels."""
    target = target.to(torch.uint8) if target.dtype == torch.bool else target
    if target.numel() == 0:
        return target, None
    low, high = (int(value) for value in target.aminmax())
    if low >= 0 and high <= 1 and ignore_index not in (0, 1):
        return target, None
    valid, positive = target != ignore_index, target == 1
    bad = valid & ~positive & (target != 0)
    if bool(bad.any()):
        image = int(bad.flatten(1).any(1).nonzero()[0])
        raise SegmendError(
            f"target: label {int(target[bad][0])} in image {image}; want 0, 1 or {ignore_index} "
            f"(ignore_index)"
        )
    return (positive & valid).to(torch.uint8), valid
