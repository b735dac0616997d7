"""The threshold of every patch that maximises IoU with the target: exact, over all thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.refine.cuts import Cuts, sorted_cuts
from segmend.refine.histogram import counted_cuts, worth_counting
from segmend.refine.patch_grid import PatchGrid
from segmend.refine.patch_masks import check_pair, labels_and_valid
from segmend.refine.score_codes import (
    LEVELS,
    check_scores,
    encode,
    is_quantised,
    threshold_dtype,
)
from segmend.refine.selection import (
    Objective,
    Ties,
    best_for_image,
    best_for_patch,
    check_options,
)


def best_thresholds(
    probs: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    objective: Objective = "patch",
    epsilon: float = 0.0,
    ties: Ties = "nearest",
    ignore_index: int = 255,
) -> Tensor:
    """Exact IoU-optimal threshold of every patch of every image, from one sort of all patches.

    Args:
        probs: foreground scores (N, H, W): float16, bfloat16, float32 or float64; or a quantised
            map, uint8 in [0, 255], uint16 or int32 in [0, 65535]. Only ranks matter, so logits do
            as well, except with `ties="nearest"`, which looks at 0.5 and wants [0, 1].
        target: integers (N, H, W) in {0, 1, ignore_index}.
        patch_size: side in pixels, or (height, width). Patches at the right and lower border are
            smaller where the size does not divide the image; no pixel is dropped (the original
            drops them).
        objective: "patch" maximises the IoU of each patch; "image" the IoU of each whole image
            over all combinations of patch thresholds.
        epsilon: added to intersection and union. 0 (ours) is the plain IoU, 1 if both are empty;
            1 is the original's, which favours empty masks for tiny objects.
        ties: among equally good masks "nearest" takes the one that differs from
            `probs > 0.5` (half of the top level) in the fewest pixels, of two such the larger;
            "largest" and "smallest" go by the mask's area. Exact for whole-numbered `epsilon`.
        ignore_index: label of pixels that count nowhere; their probs may be NaN.
    Returns:
        (N, ceil(H / height), ceil(W / width)) thresholds, to be used as `probs > threshold`; in
        the dtype of float probs, float32 in levels (127.5, say) for quantised ones. Midway between
        the scores on either side of the cut; +inf predicts nothing, -inf all; NaN marks a
        patch without a valid pixel.
    Raises:
        SegmendError: shapes or dtypes not as above, a label out of range, a score that is
            not finite or out of range.
    Source:
        Nagendra, Shen, Kifer, WACV 2024 (arXiv 2211.06560) scan 20 thresholds; all of them, by
        sorting, and the image objective, by Dinkelbach's method, are ours.
    """
    check_options(objective, ties, epsilon)
    base = 0.5 * LEVELS.get(probs.dtype, 1)
    return thresholds_around(
        probs,
        target,
        patch_size=patch_size,
        objective=objective,
        epsilon=epsilon,
        ties=ties,
        ignore_index=ignore_index,
        base=base,
        probabilities=ties == "nearest",
    )


@torch.no_grad()
def thresholds_around(
    scores: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    objective: Objective,
    epsilon: float,
    ties: Ties,
    ignore_index: int,
    base: float,
    probabilities: bool,
) -> Tensor:
    """`best_thresholds` with "nearest" measured from `base`, and the check for [0, 1] optional."""
    grid = check_pair(scores, target, patch_size)
    if scores.device.type == "mps":  # has no float64, which exact ties need
        scores, target = scores.cpu(), target.cpu()
    found = []
    for chunk in grid.chunks(len(scores)):
        cuts = candidate_cuts(
            scores[chunk], target[chunk], grid, ignore_index, base=base, probabilities=probabilities
        )
        if objective == "patch":
            size = best_for_patch(cuts, epsilon=epsilon, ties=ties)
        else:
            images = len(scores[chunk])
            size = best_for_image(cuts, images=images, epsilon=epsilon, ties=ties)
        found.append(_threshold_of(cuts, size).view(-1, grid.rows, grid.cols))
    if not found:
        return scores.new_empty((0, grid.rows, grid.cols), dtype=threshold_dtype(scores))
    return torch.cat(found)


def candidate_cuts(
    scores: Tensor,
    target: Tensor,
    grid: PatchGrid,
    ignore_index: int,
    *,
    base: float,
    probabilities: bool,
) -> Cuts:
    """Cuts of all patches of `scores`, by counting or by sorting, whichever is faster."""
    labels, valid = labels_and_valid(target, ignore_index)
    if scores.dtype == torch.uint16:
        scores = scores.to(torch.int32)  # torch computes little in uint16
    if valid is not None:
        scores = scores.masked_fill(~valid, 0)
    low, high = check_scores(scores, probabilities=probabilities)
    codes = encode(scores, base=base, low=low, high=high)
    if is_quantised(scores) and worth_counting(codes.bound + 1, grid):
        return counted_cuts(codes, labels, valid, grid)
    return sorted_cuts(codes, labels, valid, lambda keys, fill: grid.fold(keys, fill=fill))


def _threshold_of(cuts: Cuts, size: Tensor) -> Tensor:
    """(B,) thresholds that cut each patch below its `size` highest scores."""
    upper, lower = cuts.score_at(size - 1), cuts.score_at(size)
    middle = (upper + lower) / 2
    # Of two neighbouring floats the middle may round to the upper one, and of huge ones overflow;
    # the comparison is strict, so the lower score itself cuts as well.
    middle = torch.where((middle < upper) & (middle >= lower), middle, lower)
    middle = middle.masked_fill(size == cuts.valid, float("-inf"))
    middle = middle.masked_fill(size == 0, float("inf"))
    return middle.masked_fill(cuts.valid == 0, float("nan"))
