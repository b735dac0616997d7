"""The same cuts for quantised maps: counts per level take the place of the sort."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.refine.cuts import Cuts, flat_nonzero
from segmend.refine.patch_grid import PatchGrid
from segmend.refine.score_codes import ScoreCodes

# Counting beats sorting once a level has about this many pixels to count (measured).
_PIXELS_PER_LEVEL = 2


def worth_counting(levels: int, grid: PatchGrid) -> bool:
    return levels * _PIXELS_PER_LEVEL <= grid.pixels


def level_counts(
    levels: Tensor, top: int, labels: Tensor, valid: Tensor | None, grid: PatchGrid
) -> Tensor:
    """Pixels per patch, label and level.

    Args:
        levels: int32 (N, H, W) in [0, top].
        labels: integers (N, H, W) in {0, 1}.
        valid: bool (N, H, W), or None if all pixels count.
    Returns:
        int64 (N * patches, 2, top + 1), the highest level first.
    """
    images = len(levels)
    bins = 2 * (top + 1)
    dtype = torch.int32 if images * grid.patches * bins < 1 << 31 else torch.int64
    first = torch.arange(images, device=levels.device)[:, None] * grid.patches
    of_row, of_col = grid.patch_of_row_and_col(levels.device)
    of_line = ((first + of_row) * bins + top).to(dtype)  # (N, H): bin of the lowest level
    index = of_line.unsqueeze(2) + (of_col * bins).to(dtype)
    index.sub_(levels.to(dtype)).add_(labels.to(dtype), alpha=top + 1)
    chosen = index.view(-1) if valid is None else index[valid]  # ignored pixels: nowhere
    counts = torch.bincount(chosen, minlength=images * grid.patches * bins)
    return counts.view(-1, 2, top + 1)


def counted_cuts(scores: ScoreCodes, labels: Tensor, valid: Tensor | None, grid: PatchGrid) -> Cuts:
    """Cuts by counting. Arguments as in `cuts.sorted_cuts`; codes are levels."""
    counts = level_counts(scores.codes, scores.bound, labels, valid, grid)
    levels = scores.bound + 1
    above = (counts[:, 0] + counts[:, 1]).cumsum(1)
    hits = counts[:, 1].cumsum(1)
    at = flat_nonzero((counts[:, 1] > 0).view(-1))
    higher = levels - 1 - scores.base  # levels above the base threshold

    def score_at(rank: Tensor) -> Tensor:
        step = torch.searchsorted(above, rank.unsqueeze(1), right=True).squeeze(1)
        return scores.decode(levels - 1 - step.clamp_(max=levels - 1))

    patch = at // levels
    size, tp = (sums.view(-1).index_select(0, at) for sums in (above, hits))
    # As in sorting: taking in no more negatives than positives always raises the IoU.
    last = torch.ones(len(at), dtype=torch.bool, device=at.device)
    last[:-1] = (size.diff() > 2 * tp.diff()) | (patch.diff() > 0)
    kept = flat_nonzero(last)
    patch, size, tp = (values.index_select(0, kept) for values in (patch, size, tp))
    return Cuts(
        patch=patch,
        size=size,
        tp=tp,
        valid=above[:, -1],
        positives=hits[:, -1],
        base_size=above[:, higher - 1] if higher > 0 else torch.zeros_like(above[:, 0]),
        score_at=score_at,
    )
