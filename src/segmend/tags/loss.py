"""The losses of tag classifiers: classification, the two add-ons, and those of single methods."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.tags.activation import similarity_inputs
from segmend.tags.importance import importance_sampling_loss
from segmend.tags.mctformer import distinct_tokens_loss
from segmend.tags.network import MctformerClassifier, Pooling, SeamClassifier, pool_scores
from segmend.tags.options import TagOptions
from segmend.tags.seam import seam_losses
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
    valid = cells_inside(inside, logits)
    loss = classification_loss(logits, tags, valid, options, done=done, pooling=pooling)
    return loss + similarity_loss(
        logits, tags, images, valid, options, background=background, done=done
    )


def two_view_loss(
    model: SeamClassifier,
    images: Tensor,
    tags: Tensor,
    inside: Tensor,
    options: TagOptions,
    *,
    background: int | None = 0,
    done: float = 1.0,
) -> Tensor:
    """SEAM's losses of an image and its small view; ISL and FSL act on the full view alone.

    Arguments as in `tag_loss`. Source: published code of SEAM and HFPL.
    """
    small = F.interpolate(
        images, scale_factor=options.small_view, mode="bilinear", align_corners=True
    )
    views, valids, logits, revised = (images, small), [], [], []
    for view in views:
        size = [-(-side // model.output_stride) for side in view.shape[2:]]
        valid = F.interpolate(inside[:, None].float(), size=size, mode="area")[:, 0] >= 0.5
        maps, better = model.revised(view, valid)
        valids.append(valid)
        logits.append(maps)
        revised.append(better)
    losses = seam_losses(
        (logits[0], logits[1]),
        (revised[0], revised[1]),
        tags,
        (valids[0], valids[1]),
        full_view_loss=classification_loss(logits[0], tags, valids[0], options, done=done),
    )
    return losses.total + similarity_loss(
        logits[0], tags, images, valids[0], options, background=background, done=done
    )


def token_loss(
    model: MctformerClassifier,
    images: Tensor,
    tags: Tensor,
    inside: Tensor,
    options: TagOptions,
    *,
    background: int | None = 0,
    done: float = 1.0,
) -> Tensor:
    """MCTformer's loss: soft margin of the class tokens, and `tag_loss` of the patch maps.

    MCTformer+ pools the patch maps by rank and keeps the class tokens apart (published weight 1).
    Arguments as in `tag_loss`.
    """
    found = model.tokens(images)
    loss = F.binary_cross_entropy_with_logits(found.scores.float(), tags.float())
    loss = loss + tag_loss(
        found.logits, tags, images, inside, options,
        background=background, done=done, pooling="ranking" if model.plus else None,
    )  # fmt: skip
    return loss + distinct_tokens_loss(found.class_tokens) if model.plus else loss


def cells_inside(inside: Tensor, logits: Tensor) -> Tensor:
    """Bool (N, h, w): cells of the maps of which at least half is image."""
    size = (logits.shape[2], logits.shape[3])
    return F.interpolate(inside[:, None].float(), size=size, mode="area")[:, 0] >= 0.5


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
    sampled = options.isl_weight if done >= options.isl_start else 0.0
    loss = logits.new_zeros((), dtype=torch.float32)
    if sampled < 1:
        scores = pool_scores(logits, pooling=pooling or options.pooling, valid=valid).float()
        loss = (1 - sampled) * F.binary_cross_entropy_with_logits(scores, tags.float())
    if sampled > 0:
        loss = loss + sampled * importance_sampling_loss(
            logits, tags, num_samples=options.num_samples, sampling=options.sampling, valid=valid
        )
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
) -> Tensor:
    """b FSL, or 0 until its share of the training has come."""
    if options.fsl_weight == 0 or done < options.fsl_start:
        return logits.new_zeros((), dtype=torch.float32)
    maps = similarity_inputs(logits, tags, background=background, valid=valid)
    sigma = options.sigma * logits.shape[3] / images.shape[3]
    return options.fsl_weight * feature_similarity_loss(
        maps, images, mu=options.mu, sigma=sigma, valid=valid
    )
