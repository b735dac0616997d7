"""From images to the features that a segmentation head reads: DeepLab's heads on any backbone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.segmenters import SQUEEZENET, Weights
from segmend.models.squeezenet import CHANNELS, STAGES, SqueezeNetEncoder

DEEPLABS = ("deeplabv1", "deeplabv2")


class Features(NamedTuple):
    """What the head and the gate read, (N, D, h, w) and (N, T, h', w')."""

    head: Tensor
    top: Tensor


class SqueezeNetStages(nn.Module):
    """SqueezeNet at stride 8, without its last pooling: levels of strides 2, 4, 8 and 8.

    Parts are named as in the tag classifiers of segmend, so that their weights can be loaded.
    """

    channels = CHANNELS
    stride = 8

    def __init__(self, *, bundled: bool) -> None:
        super().__init__()
        layers = SqueezeNetEncoder(depth=4, bundled_weights=bundled).features
        stages = [list(layers[start:stop]) for start, stop in STAGES]
        stages[-1] = [x for x in stages[-1] if not isinstance(x, nn.MaxPool2d)]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.stages:
            images = stage(images)
            levels.append(images)
        return levels


class TimmLevels(nn.Module):
    """A convolutional model of timm, dilated to a stride."""

    def __init__(self, name: str, stride: int, *, pretrained: bool) -> None:
        super().__init__()
        import timm

        try:
            model: Any = timm.create_model(
                name, pretrained=pretrained, features_only=True, output_stride=stride
            )
        except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SegmendError(
                f"encoder tu-{name}: timm cannot give its levels at stride {stride}: {reason}; "
                "choose another, or an architecture of smp"
            ) from error
        self.model = model
        self.channels = tuple(int(c) for c in model.feature_info.channels())
        self.stride = int(model.feature_info.reduction()[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.model(images))


class DeepLab(nn.Module):
    """A dilated backbone and a context decoder; its last level goes on beside the context.

    The head so sees [last level, context]: where its weights on the context start at 0 and those
    on the last level as a tag classifier's, the untrained segmenter gives the activation maps.

    Args:
        backbone: images → levels, with `channels` and `stride`.
        version: "deeplabv1", one 3×3 convolution of dilation 12 (large field of view), or
            "deeplabv2", the sum of four with dilations 6, 12, 18, 24.
        width: channels of the context.
    Reference: Chen et al., ICLR 2015 and TPAMI 2018.
    """

    def __init__(self, backbone: Any, version: str, *, width: int = 128) -> None:
        super().__init__()
        if version not in DEEPLABS:
            raise SegmendError(f"architecture: want one of {DEEPLABS}, got {version!r}")
        self.backbone = backbone
        top = int(backbone.channels[-1])
        self.top_channels, self.head_channels = top, top + width
        self.multiple = int(backbone.stride)
        dilations = (12,) if version == "deeplabv1" else (6, 12, 18, 24)
        branches = [nn.Conv2d(top, width, 3, padding=d, dilation=d) for d in dilations]
        for branch in branches:
            nn.init.kaiming_normal_(branch.weight, nonlinearity="relu")
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Features:
        return self.decoded(self.backbone(images)[-1])

    def decoded(self, top: Tensor) -> Features:
        """From the backbone's last level on."""
        context = torch.stack([branch(top) for branch in self.branches]).sum(0)
        return Features(torch.cat((top, F.relu(context)), dim=1), top)


class SmpTrunk(nn.Module):
    """Encoder and decoder of a model of segmentation_models_pytorch, without its head."""

    def __init__(self, architecture: str, encoder: str, *, pretrained: bool) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        weights: Any = (True if encoder.startswith("tu-") else "imagenet") if pretrained else None
        try:
            model: Any = smp.create_model(
                architecture, encoder_name=encoder, encoder_weights=weights, classes=1
            )
        except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise SegmendError(
                f"architecture {architecture!r} with encoder {encoder!r}: smp cannot build it: "
                f"{reason}; or one of {', '.join(DEEPLABS)}"
            ) from error
        self.encoder, self.decoder = model.encoder, model.decoder
        convolution = next(m for m in model.segmentation_head.modules() if isinstance(m, nn.Conv2d))
        self.head_channels = convolution.in_channels
        self.top_channels = int(model.encoder.out_channels[-1])
        self.multiple = 32

    def forward(self, images: Tensor) -> Features:
        levels = self.encoder(images)
        try:
            decoded = self.decoder(levels)
        except TypeError:  # smp before 0.5 took the levels one by one
            decoded = self.decoder(*levels)
        return Features(decoded, levels[-1])


def build_trunk(architecture: str, encoder: str, *, weights: Weights) -> DeepLab | SmpTrunk:
    """The trunk of that name; see `RectifyOptions` for names.

    Raises:
        SegmendError: an unknown name, a pair that does not fit, or weights that are not to be had.
    """
    if encoder == SQUEEZENET and weights == "hub":
        raise SegmendError(f'weights: those of {SQUEEZENET} are bundled; say weights="bundled"')
    if encoder != SQUEEZENET and weights == "bundled":
        raise SegmendError(
            f"weights: only {SQUEEZENET} comes with bundled weights, not {encoder!r}; say "
            'weights="hub" to download ImageNet weights, or weights="none" for random ones'
        )
    if architecture not in DEEPLABS:
        if encoder == SQUEEZENET:
            raise SegmendError(
                f"encoder {SQUEEZENET}: want architecture {' or '.join(DEEPLABS)}, got "
                f"{architecture!r}; other architectures are smp's and take its encoders"
            )
        return SmpTrunk(architecture, encoder, pretrained=weights == "hub")
    if encoder == SQUEEZENET:
        backbone: nn.Module = SqueezeNetStages(bundled=weights == "bundled")
    else:
        name = encoder.removeprefix("tu-")
        backbone = TimmLevels(name, 8, pretrained=weights == "hub")
    return DeepLab(backbone, architecture)
