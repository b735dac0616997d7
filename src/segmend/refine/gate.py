"""The gate: how far a refiner may move the base, decided on images that it was not fitted to.

Every score here comes from cross-validation inside the fitting set. The strength and the
threshold that score best are compared with the base at *its* best threshold on the same images;
unless the gain is above zero with the asked confidence, the gate stays closed and the base is
left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
        base_score: cross-validated score of the base, IoU in [0, 1] pooled over the fitting set
            (mIoU for many classes; minus MAE for saliency).
        best_strength, best_threshold, best_score: the refiner's best, whether it may act or not.
        confidence: share of bootstrap resamples in which that best beats the base both pooled and
            on the average image: a few large images alone must not open the gate.
    """

    strength: float
    threshold: float
    base_threshold: float
    base_score: float
    best_strength: float
    best_threshold: float
    best_score: float
    confidence: float

    @property
    def is_open(self) -> bool:
        """Whether the refiner changes anything."""
        return self.strength > 0

    def opened(self) -> Gate:
        """The same gate, open at its best strength whatever the evidence."""
        return replace(self, strength=self.best_strength, threshold=self.best_threshold)

    def closed(self) -> Gate:
        """The same gate, closed: the base at its own best threshold."""
        return replace(self, strength=0.0, threshold=self.base_threshold)


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
    alone = _best(score(base, labels), strength=0.0)
    best = max(
        (
            _best(score(blend(base, refined, strength), labels), strength=strength)
            for strength in (STRENGTHS if confidence > 0 else (1.0,))
        ),
        key=lambda choice: choice.score,
    )
    weights = _resamples(len(base), num_resamples, seed=seed)
    pooled_gains = (best.scores.pooled(weights) - alone.scores.pooled(weights))[:, 0]
    image_gains = weights @ (best.scores.per_image() - alone.scores.per_image())
    gate = Gate(
        strength=0.0,
        threshold=float(thresholds[alone.shift]),
        base_threshold=float(thresholds[alone.shift]),
        base_score=alone.score,
        best_strength=best.strength,
        best_threshold=float(thresholds[best.shift]),
        best_score=best.score,
        confidence=float(((pooled_gains > 0) & (image_gains > 0)).double().mean()),
    )
    helps = gate.confidence >= confidence and gate.best_score > gate.base_score
    return gate.opened() if confidence == 0 or helps else gate


class _Choice(NamedTuple):
    """A strength at its best shift: the score there, and the parts it is made of."""

    strength: float
    shift: int
    score: float
    scores: Scores


def _best(scores: Scores, *, strength: float) -> _Choice:
    """The best shift; of equally good neighbours the middle one."""
    pooled = scores.pooled()
    top = (pooled >= pooled.max() - 1e-9).nonzero()[:, 0]
    shift = int(top[len(top) // 2])
    return _Choice(strength, shift, float(pooled[shift]), Scores(scores.parts[:, [shift]]))


def _resamples(count: int, num_resamples: int, *, seed: int) -> Tensor:
    """How often each of `count` images is drawn: float64 (num_resamples, count)."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (num_resamples, count), generator=generator)
    weights = torch.zeros(num_resamples, count, dtype=torch.float64)
    return weights.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))


def blend(base: Sequence[Tensor], refined: Sequence[Tensor], strength: float) -> list[Tensor]:
    """`base + strength * (refined - base)`, image by image."""
    return [torch.lerp(b.float(), r.float(), strength) for b, r in zip(base, refined, strict=True)]


def _scorer(task: str, *, channels: int) -> Callable[[Sequence[Tensor], Sequence[Tensor]], Scores]:
    if task == "saliency":
        if channels != 1:
            raise SegmendError(f"saliency: want maps of one channel, got {channels}")
        return saliency_scores
    return binary_scores if channels == 1 else multiclass_scores
