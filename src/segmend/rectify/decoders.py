"""From images to the features that a segmentation head reads: DeepLab's heads on any backbone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError, reason_of
from segmend.models.backbones import RESNET38, Backbone, build_backbone
from segmend.models.segmenters import SQUEEZENET

DEEPLABS = ("deeplabv1", "deeplabv2")


class Features(NamedTuple):
    """What the head and the gate read, (N, D, h, w) and (N, T, h', w')."""

    head: Tensor
    top: Tensor


class DeepLab(nn.Module):
    """A dilated backbone and a context decoder; its last level goes on beside the context.

    The head so sees [last level, context]: where its weights on the context start at 0 and those
    on the last level as a tag classifier's, the untrained segmenter gives the activation maps.

    Args:
        backbone: its last level is decoded.
        version: "deeplabv1", one 3×3 convolution of dilation 12 (large field of view), or
            "deeplabv2", the sum of four with dilations 6, 12, 18, 24.
        width: channels of the context.
    Reference: Chen et al., ICLR 2015 and TPAMI 2018.
    """

    def __init__(self, backbone: Backbone, version: str, *, width: int = 128) -> None:
        super().__init__()
        if version not in DEEPLABS:
            raise SegmendError(f"architecture: want one of {DEEPLABS}, got {version!r}")
        self.backbone = backbone
        top = backbone.channels[-1]
        self.top_channels, self.head_channels = top, top + width
        self.multiple = backbone.stride
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
            reason = reason_of(error)
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


def build_trunk(architecture: str, encoder: str, *, weights: str) -> DeepLab | SmpTrunk:
    """The trunk of that name; see `RectifyOptions` for names.

    Raises:
        SegmendError: an unknown name, a pair that does not fit, or weights that are not to be had.
    """
    if architecture in DEEPLABS:
        backbone = build_backbone(encoder.removeprefix("tu-"), output_stride=8, weights=weights)
        return DeepLab(backbone, architecture)
    if encoder in (SQUEEZENET, RESNET38):
        raise SegmendError(
            f"encoder {encoder}: want architecture {' or '.join(DEEPLABS)}, got "
            f"{architecture!r}; other architectures are smp's and take its encoders"
        )
    if weights not in ("hub", "none"):
        raise SegmendError(
            f'weights: want "hub" (ImageNet weights are downloaded) or "none" for {architecture}, '
            f"which is smp's, got {weights!r}; files of weights are for {' and '.join(DEEPLABS)}"
        )
    return SmpTrunk(architecture, encoder, pretrained=weights == "hub")
