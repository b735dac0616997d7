"""Pseudo-labels: the base's own scores, cut by the best threshold of every patch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.class_margins import check_classes, claim, log_odds
from segmend.refine.patch_grid import patch_grid
from segmend.refine.patch_masks import apply_thresholds, patch_iou
from segmend.refine.selection import Objective, Ties, check_options
from segmend.refine.thresholds import best_thresholds, thresholds_around

Fallback = Literal["target", "ignore"]


def patch_pseudo_labels(
    probs: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    objective: Objective = "patch",
    epsilon: float = 0.0,
    ties: Ties = "nearest",
    min_iou: float | None = None,
    fallback: Fallback = "target",
    ignore_index: int = 255,
) -> Tensor:
    """The base's scores binarised by the IoU-optimal threshold of every patch: what it could say.

    Args:
        probs, target, patch_size, objective, epsilon, ties, ignore_index: see `best_thresholds`.
        min_iou: patches whose best IoU (without epsilon) is below get the fallback, since no
            threshold makes sense of their scores. None (the original): none does.
        fallback: "target" labels such a patch by the target, "ignore" by `ignore_index`.
    Returns:
        int64 (N, H, W) in {0, 1, ignore_index}; ignored pixels stay ignored.
    Raises:
        SegmendError: see `best_thresholds`; `min_iou` or `fallback` not as above.
    Source:
        Nagendra, Shen, Kifer, WACV 2024 (arXiv 2211.06560); min_iou and fallback are ours.
    """
    if fallback not in ("target", "ignore"):
        raise SegmendError(f"fallback: want target or ignore, got {fallback!r}")
    if min_iou is not None and not 0 <= min_iou <= 1:
        raise SegmendError(f"min_iou: want None or a number in [0, 1], got {min_iou!r}")
    thresholds = best_thresholds(
        probs,
        target,
        patch_size=patch_size,
        objective=objective,
        epsilon=epsilon,
        ties=ties,
        ignore_index=ignore_index,
    )
    mask = apply_thresholds(probs, thresholds, patch_size=patch_size)
    labels = mask.to(torch.int64)
    if min_iou is not None:
        reached = patch_iou(mask, target, patch_size=patch_size, ignore_index=ignore_index)
        poor = patch_grid(probs.shape[1], probs.shape[2], patch_size).spread(reached < min_iou)
        instead = target.to(torch.int64) if fallback == "target" else ignore_index
        labels = torch.where(poor, instead, labels)
    return labels.masked_fill_(target == ignore_index, ignore_index)


@torch.no_grad()
def multiclass_pseudo_labels(
    logits: Tensor,
    target: Tensor,
    *,
    patch_size: int | tuple[int, int],
    objective: Objective = "patch",
    epsilon: float = 0.0,
    ties: Ties = "nearest",
    ignore_index: int = 255,
) -> Tensor:
    """Pseudo-labels for many classes: one threshold for each class in each patch, one against rest.

    A class claims the pixels whose log-odds s_c = z_c - logsumexp of the other z exceed its
    threshold; among claimants the largest s_c - threshold wins (of several with a threshold of
    -inf, the largest s_c); a pixel that nobody claims keeps argmax z.

    Args:
        logits: (N, C, H, W) with C >= 2, float; -inf is allowed. For probabilities pass their log.
        target: integers (N, H, W) in [0, C) or ignore_index.
        patch_size, objective, epsilon, ties, ignore_index: see `best_thresholds`, for every
            class by itself; "nearest" is measured from log-odds 0 (probability 0.5).
    Returns:
        int64 (N, H, W) in [0, C), ignore_index where the target has it.
    Raises:
        SegmendError: shapes, dtypes or labels not as above; a valid pixel with NaN, +inf, or -inf
            in all classes.
    Source:
        The paper (arXiv 2211.06560) names the extension without a formula; this rule is ours.
    """
    check_options(objective, ties, epsilon)
    check_classes(logits, target, ignore_index)
    labels = torch.empty(target.shape, dtype=torch.int64, device=target.device)
    for image in range(len(logits)):  # one at a time: C maps of scores are held
        one = slice(image, image + 1)
        ignored = target[one] == ignore_index
        scores = log_odds(logits[one].masked_fill(ignored.unsqueeze(1), 0), image=image)
        thresholds = [
            thresholds_around(
                scores[:, c],
                (target[one] == c).to(torch.int64).masked_fill_(ignored, -1),
                patch_size=patch_size,
                objective=objective,
                epsilon=epsilon,
                ties=ties,
                ignore_index=-1,
                base=0.0,
                probabilities=False,
            )
            for c in range(logits.shape[1])
        ]
        grid = patch_grid(target.shape[1], target.shape[2], patch_size)
        spread = torch.stack([grid.spread(t) for t in thresholds], dim=1)
        labels[one] = claim(scores, spread).masked_fill_(ignored, ignore_index)
    return labels
