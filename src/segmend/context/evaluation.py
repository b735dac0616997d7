"""What contexts do to a network's predictions: scores case by case, curves, background margins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmend.context.inference import image_logits
from segmend.context.merging import Merge, merge_background
from segmend.engine.crops import Item, ItemSet
from segmend.engine.progress import track
from segmend.metrics.paired import Interval, paired_bootstrap
from segmend.metrics.volume import FIELDS, volume_scores

MERGES: tuple[Merge, ...] = ("argmax", "sum")
GRID = torch.linspace(-6, 6, 97)
"""Thresholds on the margin, foreground logit minus merged background logit; 0 is one half."""


@dataclass(frozen=True)
class ContextScores:
    """How a network of two classes does with its contexts merged in one way.

    threshold: the margin that is best on val, by mean Dice over cases with a target. tuned, half:
    float64 (N, 8), `VolumeScores` of each test case there, and at a margin of 0. curve: int64
    (len(GRID), 3), pooled [tp, fp, fn] on test along `GRID`. background: float64 (N, 3), of each
    test case's background voxels: their number, the sum of their distances (in logits) from the
    boundary at one half, and how many lie beyond it.
    """

    threshold: float
    tuned: Tensor
    half: Tensor
    curve: Tensor
    background: Tensor


def score_contexts(
    model: nn.Module,
    val: ItemSet,
    test: ItemSet,
    *,
    num_context: int,
    window: Sequence[int] | None = None,
    tolerance: float = 1.0,
    surfaces: bool = True,
    ignore_index: int = 255,
    progress: bool = True,
) -> dict[Merge, ContextScores]:
    """Scores of a network with contexts, for both ways of merging them.

    Args:
        model: with the contexts' channels, two classes; in evaluation mode.
        val, test: items with a target. Thresholds are tuned on `val`; `test` is only scored.
        window: as in `image_logits`.
        tolerance, surfaces: of `volume_scores`.
    """
    margins: dict[str, dict[Merge, list[Tensor]]] = {}
    for split, items in (("val", val), ("test", test)):
        margins[split] = {merge: [] for merge in MERGES}
        indices = range(len(items))
        for i in track(indices, description=f"predicting {split}", enabled=progress):
            logits = image_logits(model, items[i]["image"], window=window).float().cpu()
            for merge in MERGES:
                margins[split][merge].append(margin(logits, num_context=num_context, merge=merge))
    found = {}
    for merge in MERGES:
        threshold = best_threshold(margins["val"][merge], val, ignore_index=ignore_index)
        pairs = [(m, test[i]) for i, m in enumerate(margins["test"][merge])]
        tuned, half = (
            torch.tensor(
                [case_scores(m, item, at, tolerance, surfaces, ignore_index) for m, item in pairs],
                dtype=torch.float64,
            )
            for at in (threshold, 0.0)
        )
        found[merge] = ContextScores(
            threshold=threshold,
            tuned=tuned,
            half=half,
            curve=torch.stack([counts(m, i["target"], ignore_index) for m, i in pairs]).sum(0),
            background=torch.stack([beyond(m, i["target"]) for m, i in pairs]),
        )
    return found


def margin(logits: Tensor, *, num_context: int, merge: Merge) -> Tensor:
    """Foreground minus background (*size), of the logits (M, *size) of two classes."""
    merged = merge_background(logits[None], num_context=num_context, num_classes=2, merge=merge)[0]
    return merged[1] - merged[0]


def counts(margins: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """[tp, fp, fn] of a case above each threshold of `GRID`: int64 (len(GRID), 3)."""
    valid = target != ignore_index
    truth = target[valid] == 1
    below = torch.bucketize(margins[valid], GRID)  # how many thresholds a voxel passes
    tp, fp = (
        torch.bincount(below[side], minlength=len(GRID) + 1).flip(0).cumsum(0).flip(0)[1:]
        for side in (truth, ~truth)
    )
    return torch.stack([tp, fp, truth.sum() - tp], 1)


def best_threshold(margins: Sequence[Tensor], items: ItemSet, *, ignore_index: int = 255) -> float:
    """Where the mean Dice over cases with a target is highest; 0 where there is none."""
    rows = [counts(m, items[i]["target"], ignore_index) for i, m in enumerate(margins)]
    tp, fp, fn = torch.stack(rows).double().unbind(-1)
    there = (tp + fn)[:, 0] > 0
    if not bool(there.any()):
        return 0.0
    dice = 2 * tp / (2 * tp + fp + fn).clamp(min=1)
    return float(GRID[int(dice[there].mean(0).argmax())])


def case_scores(
    margins: Tensor,
    item: Item,
    threshold: float,
    tolerance: float,
    surfaces: bool,
    ignore_index: int,
) -> Any:
    """`VolumeScores` of one case with foreground above a margin."""
    return volume_scores(
        margins > threshold,
        item["target"] == 1,
        spacing=item.get("spacing"),
        valid=item["target"] != ignore_index,
        tolerance=tolerance,
        surfaces=surfaces,
    )


def beyond(margins: Tensor, target: Tensor) -> Tensor:
    """[background voxels, sum of their distances to the boundary, those beyond it], float64."""
    values = margins[target == 0].double()
    return torch.stack([values.new_tensor(values.numel()), -values.sum(), (values > 0).sum()])


def hold_target(rows: Tensor) -> Tensor:
    """Which cases there is something to find in: bool (N,), from `VolumeScores` (N, fields)."""
    return ~rows[:, FIELDS.index("sensitivity")].isnan()


def mean_scores(rows: Tensor) -> dict[str, float]:
    """Means by field of `VolumeScores` over cases, from (N, fields).

    Over the cases that hold a target, the false-positive figures over all: where there is nothing
    to find, a method that finds nothing has no Dice and one that errs has 0, and means over what is
    left would be over other cases for each method.
    """
    means = dict(zip(FIELDS, rows[hold_target(rows)].nanmean(0).tolist(), strict=True))
    for field in ("false_positive_volume", "false_positives"):
        means[field] = float(rows[:, FIELDS.index(field)].nanmean())
    return means


def score_difference(base: Tensor, other: Tensor) -> Interval:
    """Interval of the difference in a score's mean over cases; 95%, over cases.

    To go with `mean_scores`, give it the cases that hold a target (`hold_target`).

    Args:
        base, other: (N,), or (S, N) under S seeds; cases that lack the score in either are left
            out of both.
    """
    pair = [x if x.ndim == 2 else x[None] for x in (base, other)]
    there = ~(pair[0].isnan() | pair[1].isnan())
    rows = [torch.stack([x.nan_to_num() * there, there.double()], -1) for x in pair]
    return paired_bootstrap(rows[0], rows[1], statistic=lambda sums: sums[..., 0] / sums[..., 1])
