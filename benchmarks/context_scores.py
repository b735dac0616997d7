"""What `context_gain.py` measures of a trained network: scores case by case, curves, margins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segmend.context.inference import image_logits
from segmend.context.merging import Merge, merge_background
from segmend.metrics.volume import volume_scores

Item = dict[str, Any]
MERGES: tuple[Merge, ...] = ("argmax", "sum")
GRID = torch.linspace(-6, 6, 97)
"""Thresholds on the margin, foreground logit minus merged background logit; 0 is one half."""

SURFACE_TOLERANCE = 1.0  # mm, or pixels


def score_run(
    model: nn.Module, val: list[Item], test: list[Item], *, num_context: int, window: Any
) -> dict[str, Any]:
    """All figures of one network, both ways of merging its contexts.

    For each: `threshold`, the margin that is best on val by mean Dice a case; `tuned` and `half`,
    rows (N, 8) of `VolumeScores` on test there and at a margin of 0; `curve`, pooled [tp, fp, fn]
    on test along `GRID`; `background`, (N, 3) of background voxels on test: their number, the sum
    of their distance from the boundary, and how many lie beyond it.
    """
    found: dict[str, Any] = {}
    logits = {
        split: [image_logits(model, item["image"], window=window).float().cpu() for item in items]
        for split, items in (("val", val), ("test", test))
    }
    for merge in MERGES:
        margins = {
            split: [margin(z, num_context=num_context, merge=merge) for z in rows]
            for split, rows in logits.items()
        }
        threshold = best_threshold(margins["val"], val)
        pairs = list(zip(margins["test"], test, strict=True))
        found[merge] = {
            "threshold": threshold,
            "tuned": scores(margins["test"], test, threshold),
            "half": scores(margins["test"], test, 0.0),
            "curve": torch.stack([counts(m, i) for m, i in pairs]).sum(0),
            "background": torch.stack([beyond(m, i) for m, i in pairs]),
        }
    return found


def margin(logits: Tensor, *, num_context: int, merge: Merge) -> Tensor:
    """Foreground minus background (*size), of the logits (M, *size) of two classes."""
    merged = merge_background(logits[None], num_context=num_context, num_classes=2, merge=merge)[0]
    return merged[1] - merged[0]


def counts(margins: Tensor, item: Item) -> Tensor:
    """[tp, fp, fn] of a case at each threshold of `GRID`, int64 (97, 3)."""
    valid = item["target"] != 255
    truth = item["target"][valid] == 1
    level = torch.bucketize(margins[valid].clamp(-1e4, 1e4), GRID)  # thresholds below the margin
    wide = len(GRID) + 1
    above = [
        torch.bincount(level[side], minlength=wide).flip(0).cumsum(0).flip(0)[1:]
        for side in (truth, ~truth)
    ]
    tp, fp = above
    return torch.stack([tp, fp, int(truth.sum()) - tp], 1)


def best_threshold(margins: list[Tensor], items: list[Item]) -> float:
    """Where the mean Dice over val cases with a target is highest."""
    table = torch.stack([counts(m, i) for m, i in zip(margins, items, strict=True)]).double()
    tp, fp, fn = table.unbind(-1)
    dice = 2 * tp / (2 * tp + fp + fn).clamp(min=1)
    there = (tp + fn)[:, 0] > 0
    return float(GRID[int(dice[there].mean(0).argmax())])


def scores(margins: list[Tensor], items: list[Item], threshold: float) -> Tensor:
    """Rows (N, 8) of `VolumeScores`."""
    rows = []
    for values, item in zip(margins, items, strict=True):
        spacing = item.get("spacing")
        rows.append(
            volume_scores(
                values > threshold,
                item["target"] == 1,
                spacing=spacing,
                valid=item["target"] != 255,
                tolerance=SURFACE_TOLERANCE,
            )
        )
    return torch.tensor(rows, dtype=torch.float64)


def beyond(margins: Tensor, item: Item) -> Tensor:
    """[background voxels, sum of their distances to the boundary, those beyond it]."""
    values = margins[item["target"] == 0].double()
    return torch.stack(
        [torch.tensor(float(values.numel())), -values.sum(), (values > 0).double().sum()]
    ).double()
