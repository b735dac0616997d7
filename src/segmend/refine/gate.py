"""The gate: how far a refiner may move the base, decided on images that it was not fitted to.

Every score here comes from cross-validation inside the fitting set. The strength, the guided
filter (if images are at hand) and the threshold that score best are the gate's offer; it opens only
if choosing so gains, with the asked confidence, on images that were left out of the choosing. Else
the base is left as it was, at its own best threshold. A guided filter can gain area by closing the
narrow gaps between objects: one that lowers the boundary F is not considered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.gate_evidence import middle_of_best, out_of_bag_confidence
from segmend.refine.gate_scores import (
    SHIFTS,
    Score,
    Scores,
    binary_scores,
    mean_outline,
    saliency_scores,
    scorer_of,
)
from segmend.refine.guided import GUIDES, Guide, guided_filter

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the correction that are tried."""


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
        confidence: share of bootstrap resamples in which choosing beats the base both pooled and
            on the average image (a few large images alone must not open the gate), judged out
            of bag: see `out_of_bag_confidence`.
        guide, best_guide: the guided filter that the image lays over the corrected map, or none.
    """

    strength: float
    threshold: float
    base_threshold: float
    base_score: float
    best_strength: float
    best_threshold: float
    best_score: float
    confidence: float
    guide: Guide | None = None
    best_guide: Guide | None = None

    @property
    def is_open(self) -> bool:
        """Whether the refiner changes anything."""
        return self.strength > 0 or self.guide is not None

    def opened(self) -> Gate:
        """The same gate, open at its best whatever the evidence."""
        return replace(
            self,
            strength=self.best_strength,
            threshold=self.best_threshold,
            guide=self.best_guide,
        )

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Gate:
        """From what `dataclasses.asdict` gave, after a journey through JSON."""
        guides = {
            name: None if values.get(name) is None else Guide(*values[name])
            for name in ("guide", "best_guide")
        }
        return cls(**{**values, **guides})

    def closed(self) -> Gate:
        """The same gate, closed: the base at its own best threshold."""
        return replace(self, strength=0.0, threshold=self.base_threshold, guide=None)


def choose_gate(
    base: Sequence[Tensor],
    refined: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    images: Sequence[Tensor] | None = None,
    task: str = "segmentation",
    confidence: float = 0.9,
    boundary_slack: float = 0.005,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Gate:
    """Choose strength and threshold from maps of images that the refiner has not seen.

    Args:
        base: the base's logits (C, H, W) of every image.
        refined: the refiner's logits of the same images, each from a fold that excluded it.
        labels: uint8 (H, W), 255 ignored.
        images: uint8 (3, H, W): guided filters are tried, too, on the base and on the corrected
            maps at their best strength.
        confidence: bootstrap confidence, over images, that opening needs; 0 always opens at
            full strength.
        boundary_slack: how far a guide may bring the boundary F of the average image below that
            of the same map without it; half a point by default.
    Raises:
        SegmendError: the lists differ in length or are empty.
    """
    if not base or not len(base) == len(refined) == len(labels):
        raise SegmendError(
            f"gate: want equally many maps and labels, got {len(base)}, {len(refined)} and "
            f"{len(labels)}"
        )
    score = scorer_of(task, channels=base[0].shape[0])
    thresholds = SHIFTS if score is binary_scores else torch.zeros(1)
    alone = _judge(score, base, labels, strength=0.0)
    tried = list(_choices(score, base, refined, labels, images, sure=confidence == 0))
    floors = {c.strength: c.outline for c in (alone, *tried) if c.guide is None}
    allowed = [
        c for c in tried if c.guide is None or not c.outline < floors[c.strength] - boundary_slack
    ]
    best = max(allowed, key=lambda choice: choice.score)
    sure = out_of_bag_confidence(
        alone.scores, [c.scores for c in allowed], num_resamples=num_resamples, seed=seed
    )
    gate = Gate(
        strength=0.0,
        threshold=float(thresholds[alone.shift]),
        base_threshold=float(thresholds[alone.shift]),
        base_score=alone.score,
        best_strength=best.strength,
        best_threshold=float(thresholds[best.shift]),
        best_score=best.score,
        confidence=sure,
        best_guide=best.guide,
    )
    helps = gate.confidence >= confidence and gate.best_score > gate.base_score
    return gate.opened() if confidence == 0 or helps else gate


class _Choice(NamedTuple):
    """A strength and a guide: scores at all shifts, and the best shift with its score.

    `outline` is the boundary F of the average image there, NaN for saliency, which has none.
    """

    strength: float
    shift: int
    score: float
    scores: Scores
    outline: float
    guide: Guide | None


def _choices(
    score: Score,
    base: Sequence[Tensor],
    refined: Sequence[Tensor],
    labels: Sequence[Tensor],
    images: Sequence[Tensor] | None,
    *,
    sure: bool,
) -> Iterator[_Choice]:
    """Every strength, then every guide over the base and over the best strength.

    `sure`: full strength only, whatever it scores.
    """
    strongest: _Choice | None = None
    for strength in (1.0,) if sure else STRENGTHS:
        choice = _judge(score, blend(base, refined, strength), labels, strength=strength)
        if strongest is None or choice.score > strongest.score:
            strongest = choice
        yield choice
    if images is None or strongest is None:
        return
    for strength in (1.0,) if sure else (0.0, strongest.strength):
        maps = blend(base, refined, strength)
        for guide in GUIDES:
            filtered = [guided(*pair, guide) for pair in zip(maps, images, strict=True)]
            yield _judge(score, filtered, labels, strength=strength, guide=guide)


def _judge(
    score: Score,
    maps: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    strength: float,
    guide: Guide | None = None,
) -> _Choice:
    """Maps at their best shift."""
    scores = score(maps, labels)
    pooled = scores.pooled()
    shift = int(middle_of_best(pooled))
    cut = float(SHIFTS[shift]) if score is binary_scores else 0.0
    outline = math.nan if score is saliency_scores else mean_outline(maps, labels, cut)
    return _Choice(strength, shift, float(pooled[shift]), scores, outline, guide)


def blend(base: Sequence[Tensor], refined: Sequence[Tensor], strength: float) -> list[Tensor]:
    """`base + strength * (refined - base)`, image by image."""
    return [torch.lerp(b.float(), r.float(), strength) for b, r in zip(base, refined, strict=True)]


def guided(logits: Tensor, image: Tensor, guide: Guide) -> Tensor:
    """One map (C, H, W) under the guided filter of its image, uint8 (3, H, W)."""
    return guided_filter(logits.float()[None], image.float()[None] / 255, guide)[0]
