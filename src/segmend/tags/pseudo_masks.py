"""From an image's class activation maps and tags to a mask that a segmenter can be trained on."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import Normalisation, background_score, normalise_cams
from segmend.tags.dense_crf import CrfSettings, dense_crf
from segmend.tags.pamr import pamr

Refinement = Literal["crf", "pamr"]

BACKGROUND = 0.26
"""Published constant of SEAM and HFPL; the best one depends on the data: sweep it."""


class BackgroundPower(NamedTuple):
    """Background score (1 - max)^exponent: 4 gives much background, 32 little."""

    exponent: float


Background = float | BackgroundPower | Tensor | None


class PseudoMask(NamedTuple):
    """Labels, uint8 (H, W), and how sure they are, float32 (H, W) in [0, 1]."""

    labels: Tensor
    confidence: Tensor


def pseudo_mask(
    cams: Tensor,
    tags: Tensor,
    image: Tensor,
    *,
    background: Background = BACKGROUND,
    normalise: Normalisation | None = "min-max",
    refine: Refinement | None = "crf",
    crf: CrfSettings | str = "affinity-labels",
    min_confidence: float = 0.0,
    need_agreement: bool = False,
    min_share: float = 0.0,
    ignore_index: int = 255,
) -> PseudoMask:
    """Label every pixel of an image with one of its tags or the background.

    Args:
        cams: maps of one image, float (C, h, w); resized bilinearly to the image if they differ.
        tags: (C,) in {0, 1}; no other class gets a pixel.
        image: float in [0, 1], (3, H, W).
        background: score of the background: a constant (default 0.26), a `BackgroundPower`, a map
            of its own (h, w) beside `cams`, or None for data without a background class.
        normalise: method of `normalise_cams`; None: the maps are in [0, 1] already, as
            `random_walk` leaves them (outside, they are cut off).
        refine: "crf" (default), "pamr", or None: the strongest score.
        crf: settings of `dense_crf`.
        min_confidence: pixels whose posterior is below become `ignore_index`; 0 keeps all. With
            its published weights the CRF leaves few pixels below 0.9.
        need_agreement: pixels whose label the refinement changed become `ignore_index`.
        min_share: so do those whose label has no more than this share of the scores before
            refinement; from 0.5 on it keeps no label that the refinement changed. 0 keeps all.
        ignore_index: 0..255, and no class's label.
    Returns:
        Labels: 0 is background and 1 + class a tag; without a background, the class. Confidence:
        posterior of the winning class among background and tags, also where the label is
        ignored (without refinement: its share of the scores). An image without tags is
        background with confidence 1, or, without a background, ignored with confidence 0.
    Raises:
        SegmendError: a map holds NaN or infinity, or an argument is not as above.
    """
    _check(cams, tags, image, background, refine, ignore_index)
    size = (image.shape[1], image.shape[2])
    present = tags > 0.5
    if not bool(present.any()):
        return _without_tags(size, background, ignore_index)
    scores = _scores(cams[present.to(cams.device)], size, background, normalise)
    posterior = _posterior(scores, image, refine, crf)
    confidence, winner = posterior.max(0)
    unsure = confidence < min_confidence
    if need_agreement:
        unsure |= winner != scores.argmax(0).cpu()
    if min_share > 0:
        unsure |= _shares(scores).gather(0, winner[None])[0] <= min_share
    classes = present.nonzero().flatten().cpu()
    if background is not None:
        classes = F.pad(classes + 1, (1, 0))
    labels = classes[winner].masked_fill(unsure, ignore_index)
    return PseudoMask(labels.to(torch.uint8), confidence)


def _scores(
    cams: Tensor,
    size: tuple[int, int],
    background: Background,
    normalise: Normalisation | None,
) -> Tensor:
    """Scores in [0, 1] of the background, if any, and the classes in `cams`: (K, H, W)."""
    maps = _resized(cams, size)
    if normalise is not None:
        maps = normalise_cams(maps, method=normalise)
    maps = maps.clamp(0, 1)
    if background is None:
        return maps[0]
    if isinstance(background, Tensor):
        behind = _resized(background.unsqueeze(0).to(maps.device), size)[0].clamp(0, 1)
    elif isinstance(background, BackgroundPower):
        behind = background_score(maps, power=background.exponent)
    else:
        behind = background_score(maps, constant=background)
    return torch.cat([behind, maps[0]])


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (K, h, w) at another size, bilinear: float32 (1, K, H, W)."""
    maps = maps.unsqueeze(0).float()
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _posterior(
    scores: Tensor, image: Tensor, refine: Refinement | None, crf: CrfSettings | str
) -> Tensor:
    """Refined scores that sum to 1 over classes: (K, H, W) on the CPU."""
    if refine == "crf":
        return dense_crf(scores, image, settings=crf)
    if refine == "pamr":
        scores = pamr(scores.unsqueeze(0), image.to(scores.device).unsqueeze(0))[0]
    return _shares(scores)


def _shares(scores: Tensor) -> Tensor:
    """Scores (K, H, W) over their sum, on the CPU; even where all are 0."""
    total = scores.sum(0, keepdim=True)
    even = torch.full_like(scores, 1 / len(scores))
    return torch.where(total > 0, scores / total.clamp(min=1e-12), even).cpu()


def _without_tags(size: tuple[int, int], background: Background, ignore_index: int) -> PseudoMask:
    known = background is not None
    labels = torch.full(size, 0 if known else ignore_index, dtype=torch.uint8)
    return PseudoMask(labels, torch.full(size, float(known)))


def _check(
    cams: Tensor,
    tags: Tensor,
    image: Tensor,
    background: Background,
    refine: str | None,
    ignore_index: int,
) -> None:
    if cams.ndim != 3 or not cams.is_floating_point() or 0 in cams.shape:
        raise SegmendError(f"cams: want float (C, h, w), got {cams.dtype} {tuple(cams.shape)}")
    if tags.shape != cams.shape[:1]:
        raise SegmendError(f"tags: want ({len(cams)},), one per map, got {tuple(tags.shape)}")
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        raise SegmendError(
            f"image: want float (3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}"
        )
    broken = (~cams.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise SegmendError(
            f"cams: want finite numbers, found NaN or infinity in the maps of classes {broken}; "
            "the network that made them has diverged"
        )
    if refine is not None and refine not in get_args(Refinement):
        raise SegmendError(f"refine: want one of {get_args(Refinement)} or None, got {refine!r}")
    labels = len(cams) + (background is not None)
    if not 0 <= ignore_index <= 255 or ignore_index < labels or labels > 256:
        raise SegmendError(
            f"ignore_index: want it in 0..255 and above all {labels} labels, got {ignore_index}"
        )
