"""How well maps do at every threshold, image by image: sums that add up over any set of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.metrics.contour import boundary_counts, boundary_f
from segmend.metrics.scores import class_score

SHIFTS = torch.linspace(-4.0, 4.0, 161)
"""Logit thresholds that are tried: p = 0.018 to 0.982 in steps of 0.05 logits."""


class Scores(NamedTuple):
    """Sums that a score is made of: `(N, shifts, classes, 2)`, numerator and denominator."""

    parts: Tensor

    def pooled(self, weights: Tensor | None = None) -> Tensor:
        """Score at each shift: `(shifts,)`, or `(R, shifts)` for weights `(R, N)`."""
        parts = self.parts.double()
        sums = parts.sum(0) if weights is None else torch.einsum("rn,nskt->rskt", weights, parts)
        ratio = sums[..., 0] / sums[..., 1].clamp_min(1e-12)
        present = sums[..., 1] > 0
        return (ratio * present).sum(-1) / present.sum(-1).clamp_min(1)

    def per_image(self) -> Tensor:
        """Each image's own score at the first shift, (N,); 0 where it has none."""
        parts = self.parts[:, 0].double()
        present = parts[..., 1] > 0
        ratio = torch.where(present, parts[..., 0] / parts[..., 1].clamp_min(1e-12), 0)
        return ratio.sum(-1) / present.sum(-1).clamp_min(1)


Score = Callable[[Sequence[Tensor], Sequence[Tensor]], Scores]
"""Logits (C, H, W) and labels (H, W) of every image -> their scores."""


def binary_scores(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Scores:
    """Intersection and union of every image at every threshold of `SHIFTS`.

    Args:
        logits: float (1, H, W) each; labels: uint8 (H, W) each, 255 ignored.
    """
    rows = []
    for map_, label in zip(logits, labels, strict=True):
        valid = label != 255
        scores, positive = map_[0][valid].float(), label[valid] == 1
        # Level k: how many thresholds a pixel exceeds; sums from above give counts at each.
        level = torch.bucketize(scores, SHIFTS)
        hits = torch.bincount(level[positive], minlength=len(SHIFTS) + 1).flip(0).cumsum(0).flip(0)
        marked = torch.bincount(level, minlength=len(SHIFTS) + 1).flip(0).cumsum(0).flip(0)
        inter, found = hits[1:], marked[1:]
        rows.append(torch.stack([inter, found + positive.sum() - inter], dim=-1))
    return Scores(torch.stack(rows).unsqueeze(2))


def multiclass_scores(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Scores:
    """Intersection and union of every image and class under argmax; one shift, which is 0."""
    rows = []
    for map_, label in zip(logits, labels, strict=True):
        classes = map_.shape[0]
        valid = label != 255
        truth, guess = label[valid].long(), map_.argmax(0)[valid]
        inter = torch.bincount(truth[truth == guess], minlength=classes)
        union = torch.bincount(truth, minlength=classes) + torch.bincount(guess, minlength=classes)
        rows.append(torch.stack([inter, union - inter], dim=-1))
    return Scores(torch.stack(rows).unsqueeze(1))


def saliency_scores(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Scores:
    """Minus the absolute error of the grey levels, and the number of pixels, of every image."""
    rows = []
    for map_, label in zip(logits, labels, strict=True):
        valid = label != 255
        error = (map_[0][valid].float().sigmoid() - (label[valid] == 1).float()).abs().sum()
        rows.append(torch.stack([-error, valid.sum().to(error.dtype)]))
    return Scores(torch.stack(rows)[:, None, None])


def scorer_of(task: str, *, channels: int) -> Score:
    """What a task is judged by: IoU of one class, mIoU of several, or minus MAE."""
    if task == "saliency":
        if channels != 1:
            raise SegmendError(f"saliency: want maps of one channel, got {channels}")
        return saliency_scores
    return binary_scores if channels == 1 else multiclass_scores


def mean_outline(logits: Sequence[Tensor], labels: Sequence[Tensor], cut: float) -> float:
    """Boundary F of the average image: one channel is cut at a logit, several by argmax."""
    values = []
    for map_, label in zip(logits, labels, strict=True):
        mask = map_[0] > cut if map_.shape[0] == 1 else map_.argmax(0)
        counts = boundary_counts(
            mask.long()[None], label.long()[None], num_classes=max(2, map_.shape[0])
        )
        values.append(class_score(boundary_f(counts)))
    return float(torch.cat(values).nanmean())
