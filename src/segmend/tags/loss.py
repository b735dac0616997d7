"""The loss of any tag classifier's maps: classification, and the two add-ons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.tags.activation import SimilarityForm, similarity_inputs
from segmend.tags.importance import ImportanceSamplingLoss
from segmend.tags.options import TagOptions
from segmend.tags.pooling import Pooling, pool_scores
from segmend.tags.similarity import feature_similarity_loss


def tag_loss(
    logits: Tensor,
    tags: Tensor,
    images: Tensor,
    inside: Tensor,
    options: TagOptions,
    *,
    background: int | None = 0,
    done: float = 1.0,
    pooling: Pooling | None = None,
) -> Tensor:
    """(1 - a) GAP + a ISL + b FSL, with a, b the options' weights once their share has come.

    Args:
        logits: maps (N, C, h, w); tags: (N, C); images: (N, 3, H, W) in [0, 1];
            inside: bool (N, H, W), False where a crop was padded.
        done: share of the training that lies behind.
        pooling: None (default) is the options'.
    Source: equations 1 to 4 of the HFPL method (published code, `train_cam_voc.py`).
    """
    valid = cells_inside(inside, logits.shape[2:])
    loss = classification_loss(logits, tags, valid, options, done=done, pooling=pooling)
    return loss + similarity_loss(
        logits, tags, images, valid, options, background=background, done=done
    )


def cells_inside(inside: Tensor, size: Sequence[int]) -> Tensor:
    """Bool (N, h, w): cells of maps of a size (h, w) of which at least half is image."""
    return F.interpolate(inside[:, None].float(), size=tuple(size), mode="area")[:, 0] >= 0.5


def classification_loss(
    logits: Tensor,
    tags: Tensor,
    valid: Tensor,
    options: TagOptions,
    *,
    done: float,
    pooling: Pooling | None = None,
) -> Tensor:
    """(1 - a) GAP + a ISL."""
    mix = ImportanceSamplingLoss(
        weight=options.isl_weight if done >= options.isl_start else 0.0,
        num_samples=options.num_samples,
        sampling=options.sampling,
        pooling=pooling or options.pooling,
    )
    loss: Tensor = mix(logits, tags, valid=valid)
    return loss


def similarity_loss(
    logits: Tensor,
    tags: Tensor,
    images: Tensor,
    valid: Tensor,
    options: TagOptions,
    *,
    background: int | None,
    done: float,
    form: SimilarityForm | None = None,
) -> Tensor:
    """b FSL, or 0 until its share of the training has come.

    `form` as in `similarity_inputs`; None (default) is the options'. Maps of a multinomial form
    that want a background and have none get one whose logits are 0: there sigmoid says one half.
    """
    form = form or options.fsl_form
    if options.fsl_weight == 0 or done < options.fsl_start:
        return logits.new_zeros((), dtype=torch.float32)
    if form == "multinomial" and background is not None and logits.shape[1] == tags.shape[1]:
        logits = F.pad(logits, (0, 0, 0, 0, 1, 0))
    maps = similarity_inputs(logits, tags, background=background, valid=valid, form=form)
    if options.fsl_trust:
        scores = pool_scores(logits[:, -tags.shape[1] :].detach(), valid=valid)
        trust = believed_tags(scores, tags)
        maps = maps * trust.sqrt()[:, None, None, None]  # the loss is quadratic in the maps
    sigma = options.sigma * logits.shape[3] / images.shape[3]
    return options.fsl_weight * feature_similarity_loss(
        maps, images, mu=options.mu, sigma=sigma, valid=valid
    )


def believed_tags(scores: Tensor, tags: Tensor) -> Tensor:
    """(N,): mean probability of an image's tags by scores (N, C); 1 where it has fewer than two.

    Shaping the maps of classes that a network cannot tell yet may keep it from ever learning to
    tell them; the map of a class that is alone in its image need only be the object's shape.
    """
    present = tags > 0.5
    count = present.sum(1)
    sure = (scores.float().sigmoid() * present).sum(1) / count.clamp(min=1)
    return torch.where(count > 1, sure, torch.ones_like(sure))
