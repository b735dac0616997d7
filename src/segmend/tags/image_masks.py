"""One image's pseudo-mask from its file of maps, by the settings of `segmend tags masks`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmend.tags.activation import Normalisation, background_score, normalise_cams
from segmend.tags.affinity_network import AffinityNet, IRNet, Walk
from segmend.tags.cam_files import CamFile
from segmend.tags.options import MaskOptions
from segmend.tags.pseudo_masks import (
    BACKGROUND,
    Background,
    BackgroundPower,
    PseudoMask,
    pseudo_mask,
)

WALK_POWER = 16.0
"""Published with AffinityNet (its code says 16 for VOC)."""


def mask_of(
    options: MaskOptions,
    cams: CamFile,
    image: Tensor,
    *,
    background: int | None,
    affinity: AffinityNet | IRNet | None = None,
) -> PseudoMask:
    """The pseudo-mask of an image (3, H, W), of the classes that its file of maps has.

    A background score that the options leave open is the published one: `settle_background`
    chooses it for a whole set.
    """
    return masks_of([options], cams, image, background=background, affinity=affinity)[0]


def masks_of(
    tried: Sequence[MaskOptions],
    cams: CamFile,
    image: Tensor,
    *,
    background: int | None,
    affinity: AffinityNet | IRNet | None = None,
) -> list[PseudoMask]:
    """`mask_of` by settings that differ in the background score alone; they share a walk."""
    options = tried[0]
    scores = [_score(each, background) for each in tried]
    maps, tags = cams.dense(), cams.tags()
    normalise: Normalisation | None = options.normalisation
    if affinity is not None and bool((tags > 0.5).any()):
        powers: list[float] = []
        if isinstance(affinity, AffinityNet) and background is not None:
            powers = [WALK_POWER if o.walk_power is None else o.walk_power for o in tried]
        walk = Walk(options.walk_beta, options.walk_steps)
        maps, behind = walked(maps, tags, image, affinity, walk, powers)
        scores = [*behind] if powers else scores
        normalise = None  # the walk's scores are of one scale, and stay comparable
    return [
        pseudo_mask(
            maps,
            tags,
            image,
            background=score,
            normalise=normalise,
            refine=None if options.refine == "none" else options.refine,
            crf=options.crf,
            min_confidence=options.confidence,
            need_agreement=options.need_agreement,
            min_share=options.min_share,
        )
        for score in scores
    ]


def _score(options: MaskOptions, background: int | None) -> Background:
    if background is None:
        return None
    if options.power is not None:
        return BackgroundPower(options.power)
    return BACKGROUND if options.constant is None else options.constant


@torch.inference_mode()
def walked(
    maps: Tensor,
    tags: Tensor,
    image: Tensor,
    affinity: AffinityNet | IRNet,
    walk: Walk,
    powers: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Maps (C, h, w) in [0, 1] after an affinity network's random walk, at the same size.

    AffinityNet's walk takes the background along, as (1 - max)^power: beside the maps there is one
    background (h, w) for each of `powers`. IRN's has none: a constant follows (published 0.25).
    """
    present = tags > 0.5
    scores = normalise_cams(maps[present][None], method="max")
    behind = [background_score(scores, power=power)[:, None] for power in powers]
    spread = affinity.spread(torch.cat([*behind, scores], 1), image[None], walk)[0]
    result = torch.zeros_like(maps)
    result[present] = spread[len(powers) :].clamp(0, 1)
    return result, spread[: len(powers)]
