"""The gate: how far a refiner may move the base, decided on images that it was not fitted to.

Every score here comes from cross-validation inside the fitting set. The strength and the
threshold that score best are compared with the base at *its* best threshold on the same images;
unless the gain is above zero with the asked confidence, the gate stays closed and the base is
left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from segmend.errors import SegmendError

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the correction that are tried."""

SHIFTS = torch.linspace(-4.0, 4.0, 161)
"""Logit thresholds that are tried: p = 0.018 to 0.982 in steps of 0.05 logits."""


@dataclass(frozen=True)
class Gate:
    """What the cross-validation decided.

    Attributes:
        strength: share of the correction that is added, 0 (closed) to 1.
        threshold: logit at which the blended map is cut; 0 where no threshold is set.
        base_threshold: the same for the base alone.
        base_score, score: cross-validated score of the base and of the gated refiner, IoU in
            [0, 1] pooled over the fitting set (mIoU for many classes; minus MAE for saliency).
        confidence: share of bootstrap resamples in which the refiner beats the base.
    """

    strength: float
    threshold: float
    base_threshold: float
    base_score: float
    score: float
    confidence: float


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


def choose_gate(
    base: Sequence[Tensor],
    refined: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    task: str = "segmentation",
    confidence: float = 0.9,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Gate:
    """Choose strength and threshold from maps of images that the refiner has not seen.

    Args:
        base: the base's logits (C, H, W) of every image.
        refined: the refiner's logits of the same images, each from a fold that excluded it.
        labels: uint8 (H, W), 255 ignored.
        confidence: bootstrap confidence, over images, that opening needs; 0 always opens at
            full strength.
    Raises:
        SegmendError: the lists differ in length or are empty.
    """
    if not base or not len(base) == len(refined) == len(labels):
        raise SegmendError(
            f"gate: want equally many maps and labels, got {len(base)}, {len(refined)} and "
            f"{len(labels)}"
        )
    score = _scorer(task, channels=base[0].shape[0])
    thresholds = SHIFTS if score is binary_scores else torch.zeros(1)
    base_parts = score(base, labels)
    base_best = int(_middle_of_best(base_parts.pooled()))
    best: tuple[float, float, int, Scores] | None = None
    for strength in STRENGTHS if confidence > 0 else (1.0,):
        parts = score(blend(base, refined, strength), labels)
        pooled = parts.pooled()
        shift = int(_middle_of_best(pooled))
        if best is None or float(pooled[shift]) > best[0]:
            best = (float(pooled[shift]), strength, shift, parts)
    assert best is not None
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(base), (num_resamples, len(base)), generator=generator)
    weights = torch.zeros(num_resamples, len(base), dtype=torch.float64)
    weights.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    top, strength, shift, parts = best
    gains = (
        Scores(parts.parts[:, shift : shift + 1]).pooled(weights)
        - Scores(base_parts.parts[:, base_best : base_best + 1]).pooled(weights)
    )[:, 0]
    sure = float((gains > 0).double().mean())
    base_score = float(base_parts.pooled()[base_best])
    is_open = confidence == 0 or (sure >= confidence and top > base_score)
    return Gate(
        strength=strength if is_open else 0.0,
        threshold=float(thresholds[shift if is_open else base_best]),
        base_threshold=float(thresholds[base_best]),
        base_score=base_score,
        score=top if is_open else base_score,
        confidence=sure,
    )


def blend(base: Sequence[Tensor], refined: Sequence[Tensor], strength: float) -> list[Tensor]:
    """`base + strength * (refined - base)`, image by image."""
    return [torch.lerp(b.float(), r.float(), strength) for b, r in zip(base, refined, strict=True)]


def _scorer(task: str, *, channels: int) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Scores]:
    if task == "saliency":
        if channels != 1:
            raise SegmendError(f"saliency: want maps of one channel, got {channels}")
        return saliency_scores
    return binary_scores if channels == 1 else multiclass_scores


def _middle_of_best(scores: Tensor) -> Tensor:
    """Index of the best score; of equally good neighbours the middle one."""
    top = (scores >= scores.max() - 1e-9).nonzero()[:, 0]
    return top[len(top) // 2]
