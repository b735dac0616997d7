"""Tag classifiers: any backbone, a 1x1 convolution on top, one activation map a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.segmenters import IMAGENET_MEAN, IMAGENET_STD, SQUEEZENET, Weights
from segmend.models.squeezenet import CHANNELS, SqueezeNetEncoder

STRIDES = (8, 16)


@dataclass(frozen=True)
class ClassifierSpec:
    """All that is needed to build a classifier's layers again before its weights are loaded."""

    backbone: str
    num_classes: int
    output_stride: int


class TagClassifier(nn.Module):
    """Images in, class activation maps out: `logits` before any activation or pooling.

    Input: float (N, 3, H, W) in [0, 1], any H and W from 1 up; padded right and below by their
    edge pixels to a multiple of the stride. Output: float (N, C, ceil(H / s), ceil(W / s)).
    The head has no bias (Zhou et al., CVPR 2016): a class's score is the mean of its map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, channels: int, spec: ClassifierSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, spec.num_classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)
        self.classifier_spec = spec
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def output_stride(self) -> int:
        """Pixels per cell of the maps along each axis."""
        return self.classifier_spec.output_stride

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SegmendError(
                f"images: want float (N, 3, H, W) in [0, 1], got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        below, right = -height % self.output_stride, -width % self.output_stride
        x = (images - self.mean) / self.std
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.head(self.backbone(x))
        return logits


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
) -> TagClassifier:
    """A tag classifier whose maps have the given stride.

    Args:
        backbone: "squeezenet1_0" (the default: its ImageNet weights are bundled) or any model of
            timm: convolutional ones are dilated to the stride, vision transformers give their
            patch tokens as a map, at their patch size.
        num_classes: classes that can be tagged, background not among them.
        output_stride: 8 or 16; transformers have their own.
        weights: "bundled" (only SqueezeNet), "none", or "hub" (downloaded by timm).
    Raises:
        SegmendError: an unknown backbone, or one that cannot have this stride.
    """
    if num_classes < 1:
        raise SegmendError(f"num_classes: want at least 1 class to tag, got {num_classes}")
    if output_stride not in STRIDES:
        raise SegmendError(f"output_stride: want one of {STRIDES}, got {output_stride}")
    if backbone == SQUEEZENET:
        body, channels = _squeezenet(output_stride, weights)
        return TagClassifier(body, channels, ClassifierSpec(backbone, num_classes, output_stride))
    if weights == "bundled":
        raise SegmendError(
            f"weights: only {SQUEEZENET} comes with bundled weights, not {backbone!r}; say "
            'weights="hub" to download ImageNet weights, or weights="none" for random ones'
        )
    body, channels, stride = _timm(backbone, output_stride, pretrained=weights == "hub")
    return TagClassifier(body, channels, ClassifierSpec(backbone, num_classes, stride))


def _squeezenet(stride: int, weights: Weights) -> tuple[nn.Module, int]:
    if weights == "hub":
        raise SegmendError(f"{SQUEEZENET}: its weights are bundled; say weights='bundled'")
    layers = SqueezeNetEncoder(depth=4, bundled_weights=weights == "bundled").features
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    kept = [layer for i, layer in enumerate(layers) if not (stride == 8 and i == pools[-1])]
    return nn.Sequential(*kept), CHANNELS[-1]


class _LastMap(nn.Module):
    """A timm model cut to the one map that it ends in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.model(x)[-1]
        return maps


class _PatchTokens(nn.Module):
    """A timm vision transformer whose patch tokens, laid out as a map, are the features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.model.forward_intermediates(x, indices=1, intermediates_only=True)[-1]
        return maps


def _timm(name: str, stride: int, *, pretrained: bool) -> tuple[nn.Module, int, int]:
    """Backbone, channels of its map, and the map's stride."""
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:6]}*")[:5]
        raise SegmendError(f"backbone: timm has no {name!r}; close ones: {', '.join(close)}")
    if name.startswith(("vit_", "deit")):
        vit: Any = timm.create_model(
            name, pretrained=pretrained, num_classes=0, dynamic_img_size=True
        )
        return _PatchTokens(vit), int(vit.num_features), int(vit.patch_embed.patch_size[0])
    try:
        model: Any = timm.create_model(
            name, pretrained=pretrained, features_only=True, output_stride=stride
        )
    except (TypeError, NotImplementedError, AssertionError):  # it cannot be dilated: VGG
        model = timm.create_model(name, pretrained=False, features_only=True)
        model = _shortened(name, model, stride, pretrained=pretrained)
    found = int(model.feature_info.reduction()[-1])
    if found != stride:
        model = _shortened(name, model, stride, pretrained=pretrained)
    return _LastMap(model), int(model.feature_info.channels()[-1]), stride


def _shortened(name: str, model: Any, stride: int, *, pretrained: bool) -> Any:
    """The same network, ended at its last level of the wanted stride."""
    import timm

    strides = list(model.feature_info.reduction())
    if stride not in strides:
        raise SegmendError(f"backbone: {name} has maps of strides {strides}, none of {stride}")
    level = max(i for i, s in enumerate(strides) if s == stride)
    return timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(level,))
