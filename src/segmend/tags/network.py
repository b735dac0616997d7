"""Tag classifiers: a backbone, a 1x1 convolution on top, one activation map a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.segmenters import IMAGENET_MEAN, IMAGENET_STD, SQUEEZENET, Weights
from segmend.tags.backbones import Backbone, build_backbone
from segmend.tags.pixel_correlation import PixelCorrelation

Method = Literal["cam", "seam"]


@dataclass(frozen=True)
class ClassifierSpec:
    """All that is needed to build a classifier's layers again before its weights are loaded."""

    method: Method
    backbone: str
    num_classes: int
    output_stride: int


class Reading(NamedTuple):
    """What a classifier says of a batch: maps from 0 up (N, C, h, w), and class scores (N, C)."""

    maps: Tensor
    scores: Tensor


class ImageNetwork(nn.Module):
    """Images in [0, 1] of any size, normalised and padded for a backbone.

    Padding is right and below, by the edge pixels, to a multiple of the stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def output_stride(self) -> int:
        """Pixels per cell of the last map along each axis."""
        return self.backbone.stride

    def prepared(self, images: Tensor) -> Tensor:
        """What the backbone takes, for images (N, 3, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SegmendError(
                f"images: want float (N, 3, H, W) in [0, 1], got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        below, right = -height % self.output_stride, -width % self.output_stride
        x = (images - self.mean) / self.std
        return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


class TagClassifier(ImageNetwork):
    """Images in, class activation maps out: `logits` before any activation or pooling.

    Input: float (N, 3, H, W) in [0, 1], any H and W from 1 up.
    Output: float (N, C, ceil(H / s), ceil(W / s)).
    The head has no bias (Zhou et al., CVPR 2016): a class's score is the mean of its map.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone)
        self.head = nn.Conv2d(backbone.channels[-1], spec.num_classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)
        self.classifier_spec = spec

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(self.prepared(images))[-1])
        return logits

    def read(self, images: Tensor) -> Reading:
        """Maps and scores, as inference uses them."""
        logits = self(images).float()
        return Reading(torch.relu(logits), pool_scores(logits))


class SeamClassifier(TagClassifier):
    """A classifier with SEAM's pixel correlation, which revises the maps that it draws."""

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        self.correlation = PixelCorrelation(*backbone.channels[-2:])

    def revised(self, images: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, C, h, w) and revised maps with background (N, 1 + C, h, w)."""
        prepared = self.prepared(images)
        *_, middle, late = self.backbone(prepared)
        logits = self.head(late)
        if middle.shape[2:] != late.shape[2:]:
            middle = F.interpolate(middle, late.shape[2:], mode="bilinear", align_corners=True)
        return logits, self.correlation(logits, prepared, middle, late, valid)

    def read(self, images: Tensor) -> Reading:
        logits, revised = self.revised(images)
        return Reading(revised[:, 1:].float(), pool_scores(logits.float()))


def pool_scores(
    logits: Tensor, *, pooling: Literal["mean", "max"] = "mean", valid: Tensor | None = None
) -> Tensor:
    """One score a class from its map.

    Args:
        logits: (N, C, h, w).
        pooling: "mean" is global average pooling.
        valid: bool (N, h, w), the pixels that count; an image without any gives 0.
    Returns:
        (N, C).
    """
    if valid is None:
        return logits.mean((2, 3)) if pooling == "mean" else logits.amax((2, 3))
    mask = valid.unsqueeze(1)
    count = mask.sum((2, 3))
    if pooling == "mean":
        return logits.masked_fill(~mask, 0).sum((2, 3)) / count.clamp_min(1)
    return logits.masked_fill(~mask, -torch.inf).amax((2, 3)).masked_fill(count == 0, 0)


def build_classifier(
    backbone: str = SQUEEZENET,
    *,
    num_classes: int,
    output_stride: int = 8,
    weights: Weights = "bundled",
    method: Method = "cam",
) -> TagClassifier:
    """A tag classifier whose maps have the given stride; arguments as in `build_backbone`.

    Args:
        num_classes: classes that can be tagged, background not among them.
        method: "cam" is plain; "seam" adds pixel correlation.
    Raises:
        SegmendError: as in `build_backbone`; fewer than one class.
    """
    if num_classes < 1:
        raise SegmendError(f"num_classes: want at least 1 class to tag, got {num_classes}")
    body = build_backbone(backbone, output_stride=output_stride, weights=weights)
    spec = ClassifierSpec(method, backbone, num_classes, output_stride)
    return {"cam": TagClassifier, "seam": SeamClassifier}[method](body, spec)
