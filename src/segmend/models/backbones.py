"""Backbones of any kind behind one interface: an image in, its maps from fine to coarse out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segmend.errors import SegmendError, reason_of
from segmend.models.backbone_weights import load_backbone, read_weights, weights_file
from segmend.models.segmenters import SQUEEZENET
from segmend.models.squeezenet import CHANNELS, STAGES, SqueezeNetEncoder

STRIDES = (8, 16)
RESNET38 = "resnet38"


class Backbone(nn.Module, ABC):
    """A network whose levels, the last one at `stride`, are all given out.

    `channels` are those of the levels. `forward` takes ImageNet-normalised images whose sides are
    multiples of `stride`.
    """

    channels: tuple[int, ...]
    stride: int
    correlated: tuple[int, int] = (-2, -1)
    """The two levels whose features SEAM's pixel correlation compares."""

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps from fine to coarse; see the class."""


class _SqueezeNet(Backbone):
    """SqueezeNet; at stride 8 without its last pooling."""

    def __init__(self, stride: int, weights: str) -> None:
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


class Transformer(Backbone):
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
    name: str = SQUEEZENET, *, output_stride: int = 8, weights: str = "bundled"
) -> Backbone:
    """A backbone whose last map has the given stride.

    Args:
        name: "squeezenet1_0" (the default: its ImageNet weights are bundled) or any model of timm:
            convolutional ones are dilated to the stride, or cut at it where they cannot be (VGG);
            vision transformers give their patch tokens as maps, at their patch size.
            "resnet38" is the wide ResNet-38 that much work on image tags uses, at stride 8.
        output_stride: 8 or 16; transformers have their own.
        weights: "bundled" (only SqueezeNet), "none", "hub" (downloaded by timm), or the path of a
            file of weights (.pth, .pt, .safetensors), for this backbone by the names in it.
    Raises:
        SegmendError: an unknown name, a network that cannot have this stride, weights that do not
            fit or are not to be had.
    """
    if output_stride not in STRIDES:
        raise SegmendError(f"output_stride: want one of {STRIDES}, got {output_stride}")
    file = weights_file(weights)
    if name == SQUEEZENET:
        if weights == "hub":
            raise SegmendError(f"{SQUEEZENET}: its weights are bundled; say weights='bundled'")
        squeezenet = _SqueezeNet(output_stride, weights)
        return squeezenet if file is None else load_backbone(squeezenet, file)
    if weights == "bundled":
        raise SegmendError(
            f"weights: only {SQUEEZENET} comes with bundled weights, not {name!r}; say "
            'weights="hub" to download ImageNet weights, weights="none" for random ones, or '
            "weights=FILE"
        )
    if name == RESNET38:
        return _resnet38(output_stride, weights, file)
    pretrained: dict[str, Any] = {"pretrained": weights == "hub"}
    if file is not None:  # read here: timm would unpickle whatever is in it
        pretrained = {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": read_weights(file)},
        }
    try:
        return _timm(name, output_stride, pretrained)
    except (RuntimeError, OSError) as error:  # hub: none exist, or no connection
        if weights == "none":
            raise
        reason = reason_of(error).rstrip(".")
        if file is not None:
            raise SegmendError(f"{file}: the weights do not fit {name}: {reason}") from error
        raise SegmendError(
            f"weights: timm cannot get those of {name}: {reason}; say weights=FILE with "
            'downloaded ones, or weights="none" for random ones'
        ) from error


def _resnet38(stride: int, weights: str, file: Path | None) -> Backbone:
    if stride != 8 or weights == "hub":
        raise SegmendError(
            f"{RESNET38}: has stride 8 (asked for {stride}) and no weights to download; say "
            'weights=FILE with the published ones, or weights="none"'
        )
    from segmend.models.resnet38 import ResNet38

    network: Backbone = ResNet38()
    return network if file is None else load_backbone(network, file)


def _timm(name: str, stride: int, pretrained: dict[str, Any]) -> Backbone:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:6]}*")[:5]
        raise SegmendError(f"backbone: timm has no {name!r}; close ones: {', '.join(close)}")
    if timm.model_entrypoint(name).__module__.endswith((".vision_transformer", ".deit")):
        return Transformer(
            timm.create_model(name, num_classes=0, dynamic_img_size=True, **pretrained)
        )
    try:
        model: Any = timm.create_model(name, features_only=True, output_stride=stride, **pretrained)
    except (TypeError, NotImplementedError, AssertionError):  # it cannot be dilated: VGG
        model = timm.create_model(name, pretrained=False, features_only=True)
        model = _shortened(name, model, stride, pretrained)
    if int(model.feature_info.reduction()[-1]) != stride:
        model = _shortened(name, model, stride, pretrained)
    return _Timm(model, stride)


def _shortened(name: str, model: Any, stride: int, pretrained: dict[str, Any]) -> Any:
    """The same network, ended at its last level of the wanted stride."""
    import timm

    strides = list(model.feature_info.reduction())
    if stride not in strides:
        raise SegmendError(f"backbone: {name} has maps of strides {strides}, none of {stride}")
    levels = tuple(range(max(i for i, s in enumerate(strides) if s == stride) + 1))
    return timm.create_model(name, features_only=True, out_indices=levels, **pretrained)
