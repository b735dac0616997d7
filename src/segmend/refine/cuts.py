"""The cuts of each patch that can be optimal, from one sort of all patches at once.

A cut keeps the `size` highest scores of a patch. Only cuts at the end of a run of equal scores are
masks of the form `scores > threshold`; and of those, only runs that contain a positive can be
optimal: dropping a run of negatives alone raises the IoU. The empty cut always competes; it is
not listed.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segmend.refine.score_codes import ScoreCodes

# Below this many keys, starting threads costs more than it gains.
_THREADED_KEYS = 1 << 17


@dataclass(frozen=True)
class Cuts:
    """Candidate cuts of B patches, patch after patch, sizes ascending; all counts int64."""

    patch: Tensor
    """(K,) the patch that a cut belongs to."""
    size: Tensor
    """(K,) valid pixels above the cut, >= 1."""
    tp: Tensor
    """(K,) positives among them."""
    valid: Tensor
    """(B,) valid pixels."""
    positives: Tensor
    """(B,) positives among them."""
    base_size: Tensor
    """(B,) valid pixels above the base threshold."""
    score_at: Callable[[Tensor], Tensor]
    """(B,) ranks, 0 for the highest -> (B,) scores of each patch at that rank."""


def sorted_cuts(scores: ScoreCodes, labels: Tensor, valid: Tensor | None, fold: Fold) -> Cuts:
    """Cuts by one sort. `labels` (N, H, W) in {0, 1}, any integer dtype; `valid` bool or None."""
    # Key: score from high to low, then label, so that a run's positives end the run. Ignored
    # pixels and padding get the largest key, which is even: it carries no positive.
    dtype = torch.int32 if scores.bound < 1 << 30 else torch.int64
    keys = labels.to(dtype, copy=True).sub_(scores.codes.to(dtype), alpha=2)
    last = 2 * scores.bound + 2
    if valid is not None:
        keys.masked_fill_(~valid, last)
    ordered = sort_rows(fold(keys, last))
    patches, pixels = ordered.shape

    def first_at_least(key: int) -> Tensor:
        wanted = torch.full((patches, 1), key, dtype=dtype, device=ordered.device)
        return torch.searchsorted(ordered, wanted).squeeze(1)

    def score_at(rank: Tensor) -> Tensor:
        key = ordered.gather(1, rank.clamp(0, pixels - 1).unsqueeze(1)).squeeze(1)
        return scores.decode((-(key >> 1)).clamp_(min=-scores.bound))

    patch, size, tp, positives = _run_ends(ordered)
    return Cuts(
        patch=patch,
        size=size,
        tp=tp,
        valid=first_at_least(last),
        positives=positives,
        base_size=first_at_least(-2 * scores.base),
        score_at=score_at,
    )


def _run_ends(ordered: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Patch, size and tp of the candidates, and the positives of every patch, from sorted keys."""
    patches, pixels = ordered.shape
    flat = ordered.view(-1)
    at = flat_nonzero((flat & 1).to(torch.bool))
    ends = torch.searchsorted(at, torch.arange(patches + 1, device=at.device) * pixels)
    positives = ends.diff()
    # Taking in the next positive, at the price of at most one negative, always raises the IoU, so
    # a candidate has two negatives next, or no positive any more. Such a positive ends its run, as
    # a run's positives come last. Mostly few are left.
    last = torch.ones(len(at), dtype=torch.bool, device=at.device)
    torch.gt(at[1:], at[:-1] + 2, out=last[:-1])
    last[ends[1:][positives > 0] - 1] = True  # the neighbour may be of the next patch
    which = flat_nonzero(last)
    at = at.index_select(0, which)
    patch = at // pixels
    return patch, at - patch * pixels + 1, which - ends.index_select(0, patch) + 1, positives


Fold = Callable[[Tensor, int], Tensor]


def sort_rows(keys: Tensor) -> Tensor:
    """Each row of integer `keys` in ascending order; `keys` may be overwritten."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    # NumPy sorts integers with vector instructions, some ten times as fast as torch on a CPU; it
    # lets go of the interpreter meanwhile, so threads share the rows.
    rows = keys.contiguous().numpy()
    workers = min(torch.get_num_threads(), len(rows))
    if workers > 1 and rows.size >= _THREADED_KEYS:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda part: part.sort(axis=1), np.array_split(rows, workers)))
    else:
        rows.sort(axis=1)
    return torch.from_numpy(rows)


def flat_nonzero(mask: Tensor) -> Tensor:
    """Ascending int64 positions where the 1-D bool `mask` holds."""
    if mask.device.type != "cpu":
        return mask.nonzero().squeeze(1)
    # torch's CPU kernel branches on every element: 10 times as slow on mixed masks.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
