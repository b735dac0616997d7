"""Which cut is best: the IoU of each patch, or the IoU of the whole image.

Ratios of counts are compared as float64. Equal fractions give equal floats, and different ones
different floats while a patch (for the image objective: an image) has fewer than 2**26 pixels;
so ties are exact for whole-numbered `epsilon`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.cuts import Cuts, flat_nonzero

Objective = Literal["patch", "image"]
Ties = Literal["nearest", "largest", "smallest"]


def check_options(objective: str, ties: str, epsilon: float) -> None:
    """Raise SegmendError for an option that is not on the list."""
    for name, value, known in (
        ("objective", objective, get_args(Objective)),
        ("ties", ties, get_args(Ties)),
    ):
        if value not in known:
            raise SegmendError(f"{name}: want one of {', '.join(known)}, got {value!r}")
    check_epsilon(epsilon)


def check_epsilon(epsilon: float) -> None:
    if not 0 <= epsilon < float("inf"):
        raise SegmendError(f"epsilon: want a finite number >= 0, got {epsilon!r}")


def best_for_patch(cuts: Cuts, *, epsilon: float, ties: Ties) -> Tensor:
    """(B,) size of the cut with the highest (TP + epsilon) / (union + epsilon) of each patch."""
    union = cuts.positives.index_select(0, cuts.patch) + cuts.size - cuts.tp
    value = (cuts.tp + epsilon).double() / (union + epsilon).double()
    # Without positives a patch has no cut to compare with, and 0 / 0 does no harm.
    empty = epsilon / (cuts.positives + epsilon).double()
    return _size(cuts, _choose(cuts, value, empty, ties))


def best_for_image(cuts: Cuts, *, images: int, epsilon: float, ties: Ties) -> Tensor:
    """(B,) sizes of the cuts that together have the highest IoU of their image (Dinkelbach).

    The ratio a / b of the best masks so far is the price of a false positive; each patch takes the
    cut with the highest TP - (a / b) * FP; repeated until the ratio stands still, then it is the
    maximum, and exactly the cuts with that highest value in every patch reach it.
    """
    patches = len(cuts.valid)
    image = torch.arange(patches, device=cuts.valid.device) // (patches // images)

    def total(per_patch: Tensor) -> Tensor:
        return torch.zeros(images, dtype=torch.int64, device=image.device).index_add_(
            0, image, per_patch
        )

    positives = total(cuts.positives)
    num = torch.zeros(images, dtype=torch.float64, device=image.device)
    den = torch.ones_like(num)
    nothing = torch.zeros(patches, dtype=torch.float64, device=image.device)
    cut_image, fp = image.index_select(0, cuts.patch), cuts.size - cuts.tp
    while True:
        value = den.index_select(0, cut_image) * cuts.tp - num.index_select(0, cut_image) * fp
        chosen = _choose(cuts, value, nothing, "smallest")
        hits = _at(cuts.tp, chosen)
        new_num = (total(hits) + epsilon).double()
        new_den = (positives + total(_size(cuts, chosen) - hits) + epsilon).double()
        better = new_num / new_den > num / den  # false for 0 / 0: no positives, none predicted
        if not bool(better.any()):
            break
        num, den = torch.where(better, new_num, num), torch.where(better, new_den, den)
    return _size(cuts, _choose(cuts, value, nothing, ties))


def _choose(cuts: Cuts, value: Tensor, empty: Tensor, ties: Ties) -> Tensor:
    """(B,) index of the cut with the highest `value`, -1 where the empty cut wins."""
    best = empty.scatter_reduce(0, cuts.patch, value, "amax")
    tied = flat_nonzero(value == best.index_select(0, cuts.patch))
    patch = cuts.patch[tied]
    cost = _cost(cuts.size[tied], cuts.base_size[patch], ties)
    empty_cost = _cost(torch.zeros_like(cuts.base_size), cuts.base_size, ties)
    empty_cost.masked_fill_(empty < best, torch.iinfo(torch.int64).max)
    lowest = empty_cost.scatter_reduce(0, patch, cost, "amin")
    wins = flat_nonzero(cost == lowest[patch])  # one a patch: sizes differ, so costs differ
    chosen = torch.full_like(cuts.base_size, -1)
    chosen[patch[wins]] = tied[wins]
    return chosen


def _cost(size: Tensor, base_size: Tensor, ties: Ties) -> Tensor:
    """Distinct for distinct sizes; among equally good cuts the lowest cost is taken."""
    if ties == "smallest":
        return size.clone()
    if ties == "largest":
        return -size
    # Pixels that change sides against the base threshold; of two as far, the larger mask.
    return 2 * (size - base_size).abs() - (size > base_size).to(size.dtype)


def _size(cuts: Cuts, chosen: Tensor) -> Tensor:
    return _at(cuts.size, chosen)


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    """`values[chosen]`, 0 for the empty cut."""
    return torch.cat([values, values.new_zeros(1)])[chosen]
