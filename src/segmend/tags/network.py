"""Tag classifiers of every method, built from a few words."""

from __future__ import annotations

from typing import get_args

from segmend.errors import SegmendError
from segmend.models.backbones import build_backbone
from segmend.models.segmenters import SQUEEZENET
from segmend.tags.amn import AmnClassifier
from segmend.tags.classifier import (
    CamClassifier,
    ClassifierSpec,
    ImageNetwork,
    Method,
    Reading,
    TagClassifier,
)
from segmend.tags.mctformer_network import MctformerClassifier
from segmend.tags.pooling import Pooling, pool_scores
from segmend.tags.ppc import PpcClassifier
from segmend.tags.recam import RecamClassifier
from segmend.tags.seam_network import SeamClassifier
from segmend.tags.sipe import SipeClassifier

__all__ = [
    "AmnClassifier",
    "CamClassifier",
    "ClassifierSpec",
    "ImageNetwork",
    "MctformerClassifier",
    "Method",
    "Pooling",
    "PpcClassifier",
    "Reading",
    "RecamClassifier",
    "SeamClassifier",
    "SipeClassifier",
    "TagClassifier",
    "build_classifier",
    "pool_scores",
]


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
        method: "cam" is plain, "puzzle" the same network trained with tiles; "recam" has a second
            head, "sipe" prototypes, "amn" a classifier of pixels, "seam" pixel correlation, "ppc"
            that and a projection; "mctformer" and "mctformer+" want a vision transformer.
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
    "puzzle": CamClassifier,
    "recam": RecamClassifier,
    "sipe": SipeClassifier,
    "amn": AmnClassifier,
    "seam": SeamClassifier,
    "ppc": PpcClassifier,
    "mctformer": MctformerClassifier,
    "mctformer+": MctformerClassifier,
}
