"""PPC: pixels are pulled to the prototype of their class, within a view and across both of SEAM."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.backbones import Backbone
from segmend.tags.activation import at_least_float32, check_maps, check_tags, check_valid, max_norm
from segmend.tags.classifier import ClassifierSpec
from segmend.tags.seam_network import SeamClassifier, View

TEMPERATURE = 0.1
BACKGROUND = 0.2
"""Published score of the background beside normalised maps."""
WIDTH = 128
PROTOTYPE_SHARE = 8
"""A prototype is made of h * w / 8 pixels of the batch."""
HARD_SHARE = 0.5
"""Within a view, the share of the other prototypes that count: those most like the pixel."""


class Contrast(NamedTuple):
    """A view as the losses see it: unit `features` (N, D, h, w), `scores` (N, 1 + C, h, w) of
    classes and background, and `valid` (N, h, w) or None."""

    features: Tensor
    scores: Tensor
    valid: Tensor | None

    @property
    def labels(self) -> Tensor:
        """The best class of each pixel, int64 (N, h, w)."""
        return self.scores.argmax(1)


class PpcClassifier(SeamClassifier):
    """SEAM's classifier with a projection of its last features to 128 channels.

    Reference:
        Du et al., CVPR 2022.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        self.projection = nn.Conv2d(backbone.channels[-1], WIDTH, 1, bias=False)

    def contrast(self, view: View, tags: Tensor, size: tuple[int, int]) -> Contrast:
        """What the contrastive losses take of a view, at a size (h, w)."""
        features = _at(at_least_float32(self.projection(view.features)), size)
        scores = _at(contrast_scores(view.revised, tags, view.valid), size)
        valid = view.valid
        if valid is not None and valid.shape[1:] != size:
            valid = F.interpolate(valid[:, None].float(), size, mode="area")[:, 0] >= 0.5
        return Contrast(F.normalize(features, dim=1), scores, valid)


def contrast_scores(revised: Tensor, tags: Tensor, valid: Tensor | None = None) -> Tensor:
    """Scores that label pixels: maximum-normalised revised maps of tagged classes, background .2.

    (N, 1 + C, h, w), without gradient, of revised maps (N, 1 + C, h, w) with background.
    """
    present = check_tags(tags, revised, extra=1)[:, :, None, None]
    maps = max_norm(revised[:, 1:].detach(), valid=valid).masked_fill(~present, 0)
    return torch.cat([torch.full_like(maps[:, :1], BACKGROUND), maps], 1)


def prototypes(
    features: Tensor, scores: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One unit vector a class, from the whole batch: the mean of its best pixels' features.

    Args:
        features: float (N, D, h, w).
        scores: float >= 0, (N, K, h, w). The h * w / 8 largest of each class are taken, weighted by
            themselves; of these, only pixels that the class wins. Class 0 is the background, whose
            score may be constant: its pixels are ranked and weighted by 1 - the others' maximum.
        valid: bool (N, h, w), pixels that can be taken. None: all.
    Returns:
        (K, D), and bool (K,): whether the class has any pixel; others are 0.
    """
    check_maps("scores", scores)
    if features.shape[2:] != scores.shape[2:] or len(features) != len(scores):
        raise SegmendError(
            f"features: want the size of the scores {tuple(scores.shape)}, got "
            f"{tuple(features.shape)}"
        )
    won = F.one_hot(scores.argmax(1), scores.shape[1]).movedim(-1, 1).bool()
    if valid is not None:
        check_valid(valid, scores)
        won = won & valid.unsqueeze(1)
    objects = scores[:, 1:]
    ranked = torch.cat([1 - objects.amax(1, keepdim=True), objects], 1)
    weights = ranked.masked_fill(~won, 0).transpose(0, 1).flatten(1)  # (K, N h w)
    count = max(1, scores[0, 0].numel() // PROTOTYPE_SHARE)
    best, where = weights.topk(count, dim=1)
    taken = features.transpose(0, 1).flatten(1).T[where]  # (K, count, D)
    sums = (taken * best.unsqueeze(2)).sum(1)
    known = best.sum(1) > 0
    return F.normalize(sums, dim=1).masked_fill(~known[:, None], 0), known


def prototype_contrast(
    features: Tensor,
    labels: Tensor,
    centres: tuple[Tensor, Tensor],
    valid: Tensor | None = None,
    *,
    hard_share: float = 1.0,
) -> Tensor:
    """InfoNCE of pixels and prototypes: -log exp(f p_y / t) / sum_c exp(f p_c / t), t = 0.1.

    Args:
        features: unit vectors (N, D, h, w).
        labels: int64 (N, h, w), y.
        centres: of `prototypes`; they are not moved (no gradient reaches them).
        valid: bool (N, h, w), pixels that count. None: all.
        hard_share: of the other classes' prototypes, those most like the pixel, that count in the
            sum; at least one.
    Returns:
        Scalar, mean over pixels whose class has a prototype; 0 with a graph if there is none.
    """
    points, known = centres[0].detach(), centres[1]
    flat = features.movedim(1, -1).flatten(0, 2)
    scores = (flat @ points.T / TEMPERATURE).masked_fill(~known, -torch.inf)
    target = labels.flatten()
    counted = known[target]
    if valid is not None:
        counted = counted & valid.flatten()
    if hard_share < 1:
        others = scores.scatter(1, target[:, None], -torch.inf)
        kept = max(1, round(hard_share * (int(known.sum()) - 1)))
        least = others.topk(min(kept, others.shape[1]), dim=1).values[:, -1:]
        own = F.one_hot(target, scores.shape[1]).bool()
        scores = scores.masked_fill((others < least) & ~own, -torch.inf)
    scores = scores.masked_fill(~counted[:, None], 0)  # infinities must not reach the gradient
    each = F.cross_entropy(scores, target, reduction="none")
    return each.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


def contrast_losses(one: Contrast, two: Contrast) -> Tensor:
    """Cross-prototype, cross-CAM and intra-view loss of two views of one size, added up.

    Each is the mean of its two directions. Cross-prototype: own labels, the other view's
    prototypes. Cross-CAM: the other view's labels, own prototypes. Intra-view: own labels, own
    prototypes, of which the hard ones.
    """
    with torch.autocast(one.features.device.type, enabled=False):
        return (_one_way(one, two) + _one_way(two, one)) / 2


def _one_way(own: Contrast, other: Contrast) -> Tensor:
    features, labels, valid = own.features, own.labels, own.valid
    centres = prototypes(*own)
    cross = prototype_contrast(features, labels, prototypes(*other), valid)
    cross = cross + prototype_contrast(features, other.labels, centres, valid)
    return cross + prototype_contrast(features, labels, centres, valid, hard_share=HARD_SHARE)


def _at(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
