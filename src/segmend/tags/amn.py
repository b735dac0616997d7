"""AMN: a classifier of pixels that learns from the confident parts of a plain classifier's maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.backbones import Backbone
from segmend.tags.activation import at_least_float32, check_maps
from segmend.tags.classifier import CamClassifier, ClassifierSpec, Reading
from segmend.tags.pooling import pool_scores

DILATIONS = (6, 12, 18, 24)
"""Published: of four convolutions whose outputs are added up, as in DeepLab v2."""


def balanced_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Softmax cross-entropy, the mean of its means over background and over foreground pixels.

    So that the background, of which there is more, does not win by its number.

    Args:
        logits: float (N, K, h, w), channel 0 the background.
        labels: int64 (N, H, W) in [0, K); at another size, the nearest pixels' are taken.
        ignore_index: label of pixels that do not count.
    Returns:
        Scalar. A group without a pixel is left out, where the published code divides by 0; with
        neither of them, 0 with a graph.
    Raises:
        SegmendError: shapes or types are not as above.
    Reference:
        Lee, Kim, Shim, CVPR 2022.
    """
    check_maps("logits", logits)
    if labels.ndim != 3 or len(labels) != len(logits) or labels.is_floating_point():
        raise SegmendError(
            f"labels: want int64 ({len(logits)}, H, W), got {labels.dtype} {tuple(labels.shape)}"
        )
    size = logits.shape[2:]
    if labels.shape[1:] != size:
        small = F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")
        labels = small[:, 0].to(torch.int64)
    each = F.cross_entropy(
        at_least_float32(logits), labels, ignore_index=ignore_index, reduction="none"
    )
    known = labels != ignore_index
    groups = torch.stack([known & (labels == 0), known & (labels != 0)])
    counts = groups.sum((1, 2, 3))
    means = (each * groups).sum((1, 2, 3)) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum().clamp(min=1)


class AmnClassifier(CamClassifier):
    """A plain classifier, and one of pixels on the same features, which draws the maps.

    The pixels' features are multiplied by an embedding of the image's tags, 1 at first: so a pixel
    is compared with the classes that are there. Our sources do not state the embedding's layers;
    here it is one. Scores stay those of the plain head, which is trained along (published: not).

    Reference:
        Lee, Kim, Shim, CVPR 2022.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        depth, labels = backbone.channels[-1], 1 + spec.num_classes
        self.embedding = nn.Linear(spec.num_classes, depth, bias=False)
        nn.init.zeros_(self.embedding.weight)
        self.branches = nn.ModuleList(
            nn.Conv2d(depth, labels, 3, padding=dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        for name, parameter in self.branches.named_parameters():
            # Sums of four times nine numbers: so they start out as large as the plain head's.
            nn.init.normal_(parameter, std=0.01 / 6 if name.endswith("weight") else 0.0)

    def pixel_logits(self, features: Tensor, tags: Tensor) -> Tensor:
        """Logits (N, 1 + C, h, w), background first, of features of images with tags (N, C)."""
        factor = 1 + self.embedding(tags.to(features.dtype))
        seen = features * factor[:, :, None, None]
        logits: Tensor = torch.stack([branch(seen) for branch in self.branches]).sum(0)
        return logits

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        """Maps are probabilities; without tags, those of at least 0.5 by the scores are taken."""
        features = self.features(images)
        scores = pool_scores(self.head(features).float())
        given = (scores >= 0).float() if tags is None else tags
        logits = self.pixel_logits(features, given).float()
        return Reading(logits.softmax(1)[:, 1:], scores)
