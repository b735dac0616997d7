"""The published pseudo-label search: a fixed grid of thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.histogram import level_counts
from segmend.refine.patch_grid import PatchGrid
from segmend.refine.patch_masks import check_pair, labels_and_valid
from segmend.refine.score_codes import LEVELS, check_scores, threshold_dtype
from segmend.refine.selection import check_epsilon


@torch.no_grad()
def grid_thresholds(
    probs: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    steps: int = 20,
    epsilon: float = 1.0,
    ignore_index: int = 255,
) -> Tensor:
    """The best of `steps` evenly spaced thresholds for every patch, as the original searches.

    The thresholds are t / steps for t = 1 .. steps; the lowest of the best is taken. "Predict
    nothing" (threshold 1) is among them, "predict all" is not. `best_thresholds` is exact and
    faster; this one is here to reproduce and to compare.

    Args:
        probs: probabilities (N, H, W) in [0, 1], any float; or quantised as in `best_thresholds`.
        target, patch_size, ignore_index: see `best_thresholds`. Border patches are kept (the
            original drops what does not fill a patch).
        steps: number of thresholds; 20 as published.
        epsilon: added to intersection and union; 1 as published.
    Returns:
        (N, rows, cols) thresholds, to be used as `probs > threshold`, in the dtype of float probs,
        float32 in levels for quantised ones; NaN marks a patch without a valid pixel.
    Raises:
        SegmendError: shapes, dtypes or values not as above.
    Source:
        Nagendra, Shen, Kifer, WACV 2024 (arXiv 2211.06560) and the authors' published settings.
    """
    check_epsilon(epsilon)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SegmendError(f"steps: want a whole number >= 1, got {steps!r}")
    grid = check_pair(probs, target, patch_size)
    if probs.device.type == "mps":  # has no float64, which exact ties need
        probs, target = probs.cpu(), target.cpu()
    top = LEVELS.get(probs.dtype, 1)
    ladder = torch.tensor([t * top / steps for t in range(1, steps + 1)], dtype=torch.float64)
    ladder = ladder.to(probs.device, threshold_dtype(probs))
    found = [
        _best_step(probs[chunk], target[chunk], ladder, grid, epsilon, ignore_index)
        for chunk in grid.chunks(len(probs))
    ]
    empty = ladder.new_empty((0, grid.rows, grid.cols))
    return torch.cat([empty, *found])


def _best_step(
    probs: Tensor, target: Tensor, ladder: Tensor, grid: PatchGrid, epsilon: float, ignore: int
) -> Tensor:
    labels, valid = labels_and_valid(target, ignore)
    probs = probs.to(torch.int32) if probs.dtype == torch.uint16 else probs
    probs = probs if valid is None else probs.masked_fill(~valid, 0)
    check_scores(probs, probabilities=True)
    wide = torch.promote_types(ladder.dtype, torch.float32)
    # How many thresholds lie strictly below a score: the masks of just these contain the pixel.
    passed = torch.bucketize(probs.to(wide), ladder.to(wide), out_int32=True)
    counts = level_counts(passed, len(ladder), labels, valid, grid).cumsum(2)
    # The first class passes all thresholds, the last none: the cut at each, the lowest first.
    size, tp = counts.sum(1)[:, :-1].flip(1), counts[:, 1, :-1].flip(1)
    union = counts[:, 1, -1:] + size - tp
    iou = (tp + epsilon).double() / (union + epsilon).double()
    iou = iou.masked_fill(union == 0, 1.0)
    best = ladder[iou.argmax(1)]  # the first maximum: the lowest threshold
    best = best.masked_fill(counts[:, :, -1].sum(1) == 0, float("nan"))
    return best.view(-1, grid.rows, grid.cols)
