"""One image's pseudo-mask from its file of maps, by the settings of `segmend tags masks`."""

from __future__ import annotations

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
    score: Background = None
    if background is not None and options.power is not None:
        score = BackgroundPower(options.power)
    elif background is not None:
        score = BACKGROUND if options.constant is None else options.constant
    maps, tags = cams.dense(), cams.tags()
    normalise: Normalisation | None = options.normalisation
    if affinity is not None and bool((tags > 0.5).any()):
        maps, behind = walked(options, maps, tags, image, affinity, background=background)
        score = score if behind is None else behind
        normalise = None  # the walk's scores are of one scale, and stay comparable
    return pseudo_mask(
        maps,
        tags,
        image,
        background=score,
        normalise=normalise,
        refine=None if options.refine == "none" else options.refine,
        min_confidence=options.confidence,
        need_agreement=options.need_agreement,
    )


@torch.inference_mode()
def walked(
    options: MaskOptions,
    maps: Tensor,
    tags: Tensor,
    image: Tensor,
    affinity: AffinityNet | IRNet,
    *,
    background: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Maps (C, h, w) in [0, 1] after an affinity network's random walk, at the same size.

    AffinityNet's walk takes the background along, as (1 - max)^`walk_power`, and gives its map,
    too. IRN's has none: a constant follows (published 0.25).
    """
    present = tags > 0.5
    scores = normalise_cams(maps[present][None], method="max")
    walk = Walk(options.walk_beta, options.walk_steps)
    behind: Tensor | None = None
    if isinstance(affinity, IRNet) or background is None:
        spread = affinity.spread(scores, image[None], walk)[0]
    else:
        power = WALK_POWER if options.walk_power is None else options.walk_power
        first = background_score(scores, power=power)[:, None]
        behind, *rest = affinity.spread(torch.cat([first, scores], 1), image[None], walk)[0]
        spread = torch.stack(rest)
    result = torch.zeros_like(maps)
    result[present] = spread.clamp(0, 1)
    return result, behind
