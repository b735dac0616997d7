"""Tag classifiers of every method, built from a few words."""

from __future__ import annotations

from typing import get_args

from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.segmenters import SQUEEZENET
from segmend.tags.backbones import Backbone, build_backbone
from segmend.tags.classifier import (
    CamClassifier,
    ClassifierSpec,
    ImageNetwork,
    Method,
    Pooling,
    Reading,
    TagClassifier,
    pool_scores,
)
from segmend.tags.mctformer_network import MctformerClassifier
from segmend.tags.pixel_correlation import PixelCorrelation

__all__ = [
    "CamClassifier",
    "ClassifierSpec",
    "ImageNetwork",
    "MctformerClassifier",
    "Method",
    "Pooling",
    "Reading",
    "SeamClassifier",
    "TagClassifier",
    "build_classifier",
    "pool_scores",
]


class SeamClassifier(CamClassifier):
    """A classifier with SEAM's pixel correlation, which revises the maps that it draws."""

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        middle, late = (backbone.channels[level] for level in backbone.correlated)
        self.correlation = PixelCorrelation(middle, late)

    def revised(self, images: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, C, h, w) and revised maps with background (N, 1 + C, h, w)."""
        prepared = self.prepared(images)
        levels = self.backbone(prepared)
        logits = self.head(levels[-1])
        middle, late = (
            x if x.shape[2:] == logits.shape[2:] else _resized(x, logits)
            for x in (levels[level] for level in self.backbone.correlated)
        )
        return logits, self.correlation(logits, prepared, middle, late, valid)

    def read(self, images: Tensor) -> Reading:
        logits, revised = self.revised(images)
        return Reading(revised[:, 1:].float(), pool_scores(logits.float()))


def build_classifier(
    backbone: str = SQUEEZENET,
    *,
    num_classes: int,
    output_stride: int = 8,
    weights: str = "bundled",
    method: Method = "cam",
) -> TagClassifier:
    """A tag classifier whose maps have the given stride; arguments as in `build_backbone`.

    Args:
        num_classes: classes that can be tagged, background not among them.
        method: "cam" is plain; "seam" adds pixel correlation; "mctformer" and "mctformer+" want a
            vision transformer.
    Raises:
        SegmendError: as in `build_backbone`; fewer than one class.
    """
    if num_classes < 1:
        raise SegmendError(f"num_classes: want at least 1 class to tag, got {num_classes}")
    if method not in CLASSIFIERS:
        raise SegmendError(f"method: want one of {get_args(Method)}, got {method!r}")
    body = build_backbone(backbone, output_stride=output_stride, weights=weights)
    spec = ClassifierSpec(method, backbone, num_classes, output_stride)
    return CLASSIFIERS[method](body, spec)


CLASSIFIERS: dict[Method, type[TagClassifier]] = {
    "cam": CamClassifier,
    "seam": SeamClassifier,
    "mctformer": MctformerClassifier,
    "mctformer+": MctformerClassifier,
}


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=True)
