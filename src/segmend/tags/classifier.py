"""What all tag classifiers share: images prepared for a backbone, maps out, scores from maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.backbones import Backbone
from segmend.models.segmenters import IMAGENET_MEAN, IMAGENET_STD
from segmend.tags.pooling import pool_scores

Method = Literal["cam", "puzzle", "recam", "sipe", "amn", "seam", "ppc", "mctformer", "mctformer+"]


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
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone)
        self.classifier_spec = spec

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        """Maps and scores, as inference uses them.

        `tags` (N, C) are the classes whose maps will be used, where they are known: some methods
        let only these compete. Maps of other classes mean nothing then.
        """
        logits = self(images).float()
        return Reading(torch.relu(logits), pool_scores(logits))


class CamClassifier(TagClassifier):
    """A 1x1 convolution on the last map, without bias: a class's score is the mean of its map.

    Reference:
        Zhou et al., CVPR 2016.
    """

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        self.head = map_head(backbone.channels[-1], spec.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The backbone's last map (N, D, h, w), which the head takes."""
        found: Tensor = self.backbone(self.prepared(images))[-1]
        return found

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def map_head(channels: int, num_classes: int) -> nn.Conv2d:
    """The 1x1 convolution from features to one map a class."""
    head = nn.Conv2d(channels, num_classes, 1, bias=False)
    nn.init.normal_(head.weight, std=0.01)
    return head
