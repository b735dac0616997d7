"""ReCAM: a second head tells classes apart within their own maps, and then draws them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.models.backbones import Backbone
from segmend.tags.activation import at_least_float32, check_tags, check_valid
from segmend.tags.classifier import CamClassifier, ClassifierSpec, Reading, map_head
from segmend.tags.pooling import pool_scores

_EPSILON = 1e-5


def class_features(logits: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Features of each class: their mean over pixels, weighted by the class's map.

    Args:
        logits: maps before any activation, float (N, C, h, w); weights are relu(z) / (max + 1e-5).
        features: float (N, D, h, w).
        valid: bool (N, h, w), pixels that count. None (default, published): all.
    Returns:
        (N, C, D). Gradients reach features and logits.
    """
    maps = torch.relu(at_least_float32(logits))
    if valid is not None:
        check_valid(valid, logits)
        maps = maps.masked_fill(~valid.unsqueeze(1), 0)
    maps = maps / (maps.amax((2, 3), keepdim=True) + _EPSILON)
    pixels = maps[0, 0].numel() if valid is None else valid.sum((1, 2)).clamp(min=1)[:, None, None]
    with torch.autocast(logits.device.type, enabled=False):
        return torch.einsum("nchw,ndhw->ncd", maps, at_least_float32(features)) / pixels


def present_class_loss(scores: Tensor, tags: Tensor) -> Tensor:
    """Softmax cross-entropy of each present class's own features, mean over present classes.

    Args:
        scores: float (N, C, C): [n, c] are all classes' logits for the features of class c.
        tags: (N, C) in {0, 1}.
    Returns:
        Scalar; 0 with a graph for a batch without tags, where the published code divides by 0.
    Reference:
        Chen et al., CVPR 2022.
    """
    present = check_tags(tags, scores[:, :, :, None])
    classes = torch.arange(scores.shape[1], device=scores.device).expand(present.shape)
    each = F.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
    return each.masked_fill(~present.flatten(), 0).sum() / present.sum().clamp(min=1)


class RecamClassifier(CamClassifier):
    """A plain classifier with a second head, whose weights draw the maps.

    Scores stay those of the first head, the one that is trained on whole images.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        self.second = map_head(backbone.channels[-1], spec.num_classes)

    def class_scores(self, features: Tensor) -> Tensor:
        """The second head's logits (N, C, C) of features of classes (N, C, D)."""
        return features.to(self.second.weight.dtype) @ self.second.weight[:, :, 0, 0].T

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        features = self.features(images)
        maps = torch.relu(self.second(features).float())
        return Reading(maps, pool_scores(self.head(features).float()))
