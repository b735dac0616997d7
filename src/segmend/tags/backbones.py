"""Backbones of any kind behind one interface: an image in, its maps from fine to coarse out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from segmend.errors import SegmendError
from segmend.models.segmenters import SQUEEZENET, Weights
from segmend.models.squeezenet import CHANNELS, STAGES, SqueezeNetEncoder

STRIDES = (8, 16)


class Backbone(nn.Module, ABC):
    """A network whose levels, the last one at `stride`, are all given out.

    `channels` are those of the levels. `forward` takes ImageNet-normalised images whose sides are
    multiples of `stride`.
    """

    channels: tuple[int, ...]
    stride: int

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps from fine to coarse; see the class."""


class _SqueezeNet(Backbone):
    """SqueezeNet; at stride 8 without its last pooling."""

    def __init__(self, stride: int, weights: Weights) -> None:
        super().__init__()
        layers = SqueezeNetEncoder(depth=4, bundled_weights=weights == "bundled").features
        stages = [list(layers[start:stop]) for start, stop in STAGES]
        if stride == 8:
            stages[-1] = [x for x in stages[-1] if not isinstance(x, nn.MaxPool2d)]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.channels, self.stride = CHANNELS, stride

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            images = stage(images)
            levels.append(images)
        return levels


class _Timm(Backbone):
    """A convolutional model of timm."""

    def __init__(self, model: Any, stride: int) -> None:
        super().__init__()
        self.model = model
        self.channels, self.stride = tuple(model.feature_info.channels()), stride

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.model(images))


class _Transformer(Backbone):
    """A vision transformer of timm: its patch tokens after a third, two thirds and all blocks."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        depth = len(model.blocks)
        self.taken = sorted({depth // 3, 2 * depth // 3, depth - 1})
        self.channels = (int(model.num_features),) * len(self.taken)
        self.stride = int(model.patch_embed.patch_size[0])

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(
            self.model.forward_intermediates(images, indices=self.taken, intermediates_only=True)
        )


def build_backbone(
    name: str = SQUEEZENET, *, output_stride: int = 8, weights: Weights = "bundled"
) -> Backbone:
    """A backbone whose last map has the given stride.

    Args:
        name: "squeezenet1_0" (the default: its ImageNet weights are bundled) or any model of timm:
            convolutional ones are dilated to the stride, or cut at it where they cannot be (VGG);
            vision transformers give their patch tokens as maps, at their patch size.
        output_stride: 8 or 16; transformers have their own.
        weights: "bundled" (only SqueezeNet), "none", or "hub" (downloaded by timm).
    Raises:
        SegmendError: an unknown name, or a network that cannot have this stride.
    """
    if output_stride not in STRIDES:
        raise SegmendError(f"output_stride: want one of {STRIDES}, got {output_stride}")
    if name == SQUEEZENET:
        if weights == "hub":
            raise SegmendError(f"{SQUEEZENET}: its weights are bundled; say weights='bundled'")
        return _SqueezeNet(output_stride, weights)
    if weights == "bundled":
        raise SegmendError(
            f"weights: only {SQUEEZENET} comes with bundled weights, not {name!r}; say "
            'weights="hub" to download ImageNet weights, or weights="none" for random ones'
        )
    return _timm(name, output_stride, pretrained=weights == "hub")


def _timm(name: str, stride: int, *, pretrained: bool) -> Backbone:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:6]}*")[:5]
        raise SegmendError(f"backbone: timm has no {name!r}; close ones: {', '.join(close)}")
    if name.startswith(("vit_", "deit")):
        return _Transformer(
            timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
        )
    try:
        model: Any = timm.create_model(
            name, pretrained=pretrained, features_only=True, output_stride=stride
        )
    except (TypeError, NotImplementedError, AssertionError):  # it cannot be dilated: VGG
        model = timm.create_model(name, pretrained=False, features_only=True)
        model = _shortened(name, model, stride, pretrained=pretrained)
    if int(model.feature_info.reduction()[-1]) != stride:
        model = _shortened(name, model, stride, pretrained=pretrained)
    return _Timm(model, stride)


def _shortened(name: str, model: Any, stride: int, *, pretrained: bool) -> Any:
    """The same network, ended at its last level of the wanted stride."""
    import timm

    strides = list(model.feature_info.reduction())
    if stride not in strides:
        raise SegmendError(f"backbone: {name} has maps of strides {strides}, none of {stride}")
    levels = tuple(range(max(i for i, s in enumerate(strides) if s == stride) + 1))
    return timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=levels)
