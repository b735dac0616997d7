"""Small segmenters from the encoders and decoders of torchvision, timm and smp."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError, reason_of
from segmend.models.adapters import adapt
from segmend.models.decoders import SqueezeNetFPN, SqueezeNetUNet
from segmend.models.squeezenet import SqueezeNetEncoder

Weights = Literal["bundled", "none", "hub"]

SQUEEZENET = "squeezenet1_0"
LIGHT = {"fpn": SqueezeNetFPN, "unet": SqueezeNetUNet}
TORCHVISION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
# RGB statistics of ImageNet, as in torchvision's and timm's default preprocessing.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MULTIPLE = 32  # the deepest stride of the encoders in use


@dataclass(frozen=True)
class SegmenterSpec:
    """All that is needed to build a segmenter's layers again before its weights are loaded."""

    architecture: str
    encoder: str
    num_classes: int


class Segmenter(nn.Module):
    """Images in, logits of the same size out: normalises and pads inside.

    Input: float (N, 3, H, W) in [0, 1], any H and W from 1 up. Output: float (N, C, H, W).
    Images are padded right and below by their edge pixels to a multiple of `multiple`; the logits
    are cut back.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, *, spec: SegmenterSpec | None = None, multiple: int = MULTIPLE
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.multiple = multiple
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SegmendError(
                f"images: want float (N, 3, H, W) in [0, 1], got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        x = (images - self.mean) / self.std
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.network(x)
        return logits[..., :height, :width]


def build_segmenter(
    architecture: str = "fpn",
    *,
    encoder: str = SQUEEZENET,
    num_classes: int = 1,
    weights: Weights = "bundled",
) -> Segmenter:
    """A segmenter that takes images in [0, 1] of any size and gives logits of that size.

    Args:
        architecture: "fpn" or "unet" (with SqueezeNet: our light decoders, otherwise smp's), any
            other architecture of segmentation_models_pytorch ("deeplabv3plus", "segformer", …),
            or a torchvision model ("lraspp_mobilenet_v3_large", …), whose encoder is built in.
        encoder: "squeezenet1_0" (the default: its ImageNet weights are bundled), an encoder of
            smp, or "tu-" and the name of a timm model.
        num_classes: logit channels; 1 for a binary problem.
        weights: "bundled" (only for SqueezeNet), "none" (random), or "hub" (ImageNet weights
            downloaded by smp or torchvision).
    Returns:
        `Segmenter`, float32, in training mode.
    Raises:
        SegmendError: an unknown name (with the closest known ones), a pair that does not fit, or
            weights that are not to be had.
    """
    if num_classes < 1:
        raise SegmendError(f"num_classes: want at least 1 logit channel, got {num_classes}")
    if weights not in get_args(Weights):
        raise SegmendError(f"weights: want one of {get_args(Weights)}, got {weights!r}")
    name = architecture.lower()
    if name in TORCHVISION:
        network, encoder = _torchvision(name, num_classes, weights), "built-in"
    elif encoder == SQUEEZENET and name in LIGHT:
        _squeezenet_weights(weights)
        network = LIGHT[name](num_classes=num_classes, bundled_weights=weights == "bundled")
    else:
        network = _smp(name, encoder, num_classes, weights)
    return Segmenter(network, spec=SegmenterSpec(name, encoder, num_classes))


def spec_as_dict(spec: SegmenterSpec) -> dict[str, str | int]:
    """The spec as plain values, for a JSON file."""
    return asdict(spec)


def _torchvision(name: str, num_classes: int, weights: Weights) -> nn.Module:
    from torchvision.models import segmentation

    if weights == "bundled":
        weights = "none"
    return adapt(
        getattr(segmentation, name)(
            weights=None,
            weights_backbone="DEFAULT" if weights == "hub" else None,
            num_classes=num_classes,
        )
    )


class _SmpSqueezeNet(SqueezeNetEncoder):
    """SqueezeNet as smp's decoders call it: five levels, the last one pooled."""

    def __init__(self, *, depth: int, output_stride: int, bundled: bool) -> None:
        super().__init__(depth=depth, bundled_weights=bundled)

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        if in_channels != 3:
            raise SegmendError(f"encoder {SQUEEZENET}: want 3 input channels, got {in_channels}")

    def make_dilated(self, output_stride: int) -> None:
        raise SegmendError(
            f"encoder {SQUEEZENET}: has no dilated form (output stride {output_stride}); choose "
            "an architecture without dilation, such as fpn, unet, unetplusplus, manet or linknet"
        )


def _smp(name: str, encoder: str, num_classes: int, weights: Weights) -> nn.Module:
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch import encoders

    known = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if name not in known:
        _unknown("architecture", name, [*known, *TORCHVISION])
    table: dict[str, Any] = encoders.encoders
    smp_weights: str | None = "imagenet" if weights == "hub" else None
    if encoder == SQUEEZENET:
        _squeezenet_weights(weights)
        bundled = weights == "bundled"
        table[SQUEEZENET] = {"encoder": _SmpSqueezeNet, "params": {"bundled": bundled}}
    elif weights == "bundled":
        raise SegmendError(
            f"weights: only {SQUEEZENET} comes with bundled weights, not {encoder!r}; say "
            'weights="hub" to download ImageNet weights, or weights="none" for random ones'
        )
    elif not encoder.startswith("tu-") and encoder not in table:
        _unknown("encoder", encoder, [SQUEEZENET, *table])
    elif encoder.startswith("tu-") and weights == "hub":
        smp_weights = True  # type: ignore[assignment]  # smp's switch for timm's own weights
    try:
        return _create(smp, name, encoder, num_classes, smp_weights)
    finally:
        table.pop(SQUEEZENET, None)


def _create(
    smp: Any, name: str, encoder: str, num_classes: int, smp_weights: str | None
) -> nn.Module:
    try:
        network: nn.Module = smp.create_model(
            name,
            encoder_name=encoder,
            encoder_weights=smp_weights,
            in_channels=3,
            classes=num_classes,
        )
    except SegmendError:
        raise
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OSError) as error:
        reason = reason_of(error)
        raise SegmendError(
            f"architecture {name!r} with encoder {encoder!r}: smp cannot build it: {reason}"
        ) from error
    return network


def _squeezenet_weights(weights: Weights) -> None:
    if weights == "hub":
        raise SegmendError(
            f'weights: {SQUEEZENET} has its ImageNet weights bundled; say weights="bundled"'
        )


def _unknown(what: str, name: str, known: list[str]) -> None:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    timm = "; timm models are written tu-NAME" if what == "encoder" else ""
    raise SegmendError(f"{what}: unknown name {name!r}; {hint}{timm}")
