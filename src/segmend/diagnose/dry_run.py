"""A mend tried out in small on the images at hand: what is gained where it was not tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segmend.diagnose.case import Case, CaseSet
from segmend.refine.gate_scores import Scores, multiclass_scores
from segmend.refine.guided import GUIDES, guided_filter

MOST_IMAGES = 48
"""Tried at most, evenly spread over the set: a filter costs more than reading an image."""
LEAST_IMAGES = 4
LONGEST_SIDE = 320
"""Of what is filtered, in pixels; larger frames are cut to their middle."""
TRIED = GUIDES[:2]
"""Filters of a small radius: they follow the image's edges, larger ones round off as well."""


@dataclass(frozen=True)
class DryRun:
    """Pooled score gained, cross-fitted, in [-1, 1], with its 95% interval over images."""

    gain: float
    low: float
    high: float
    num_images: int


def guided_dry_run(
    cases: CaseSet,
    *,
    threshold: float | None,
    most: int = MOST_IMAGES,
    num_resamples: int = 1000,
    seed: int = 0,
) -> DryRun | None:
    """What the image-guided half of a refiner gains: maps drawn to the edges of the images.

    Whether to filter, and how wide, is chosen on one half of the images and scored on the other,
    and the reverse. The threshold stays as it is: tuned on few images it is worth less than what
    there is to see here.

    Args:
        cases: need probabilities and images, 2D.
        threshold: of a binary map; None: 0.5.
        most: images that are tried. num_resamples, seed: of the bootstrap.
    Returns:
        None where there is nothing to try it on: fewer than four images with all that is needed.
    """
    step = max(1, -(-len(cases) // most))
    prepared = [_prepare(cases[i]) for i in range(0, len(cases), step)]
    maps = [m for m in prepared if m is not None]
    if len(maps) < LEAST_IMAGES or len({z.shape[0] for z, _, _ in maps}) != 1:
        return None
    p = min(max(0.5 if threshold is None else threshold, 1e-4), 1 - 1e-4)
    cut = math.log(p / (1 - p))
    labels = [y for _, y, _ in maps]
    ways = [_scores([z for z, _, _ in maps], labels, cut)]
    for guide in TRIED:
        filtered = [guided_filter(z[None], i[None], guide)[0] for z, _, i in maps]
        ways.append(_scores(filtered, labels, cut))
    base, other = ways[0], _cross_fit(ways)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(maps), (num_resamples, len(maps)), generator=generator)
    weights = torch.zeros(num_resamples, len(maps), dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    gains = (other.pooled(weights) - base.pooled(weights))[:, 0]
    low, high = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    gain = float(other.pooled()[0] - base.pooled()[0])
    return DryRun(gain, min(low, gain), max(high, gain), len(maps))


def _scores(logits: Sequence[Tensor], labels: Sequence[Tensor], cut: float) -> Scores:
    """Intersection and union of every image, (N, 1, classes, 2): of the foreground, or of all."""
    if logits[0].shape[0] > 1:
        return multiclass_scores(logits, labels)
    rows = []
    for map_, label in zip(logits, labels, strict=True):
        mask, truth = (map_[0] > cut) & (label != 255), label == 1
        rows.append(torch.stack([(mask & truth).sum(), (mask | truth).sum()]))
    return Scores(torch.stack(rows)[:, None, None])


def _cross_fit(ways: Sequence[Scores]) -> Scores:
    """Each half's images under the way that suits the other half best; the halves take turns."""
    held = torch.arange(len(ways[0].parts)) % 2 == 0
    result = ways[0].parts.clone()
    for part in (held, ~held):
        best = max(ways, key=lambda way: float(Scores(way.parts[~part]).pooled()[0]))
        result[part] = best.parts[part]
    return Scores(result)


def _prepare(case: Case) -> tuple[Tensor, Tensor, Tensor] | None:
    """Logits (C, H, W), uint8 labels (255: not valid) and image, cut to the longest side."""
    if case.probs is None or case.image is None or case.target.ndim != 2:
        return None
    rows, columns = (_middle(side) for side in case.target.shape)
    probs = case.probs[:, rows, columns].float().clamp(1e-4, 1 - 1e-4)
    logits = probs.logit() if probs.shape[0] == 1 else probs.log()
    labels = torch.where(case.valid, case.target, 255).to(torch.uint8)[rows, columns]
    return logits, labels, case.image[:, rows, columns].float()


def _middle(side: int) -> slice:
    start = max(0, (side - LONGEST_SIDE) // 2)
    return slice(start, start + min(side, LONGEST_SIDE))
