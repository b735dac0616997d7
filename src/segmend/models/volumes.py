"""Networks for volumes, from MONAI and our own; each is built only when it is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError

WIDTHS = (16, 32, 64, 96)
"""Channels of the stages, finest first; nnU-Net's are 32, 64, 128, 256, 320, 320."""

MIN_SIDE = 4
"""nnU-Net pools an axis only while this much of it is left."""


class AnySize(nn.Module):
    """Pads right and below to a multiple of `multiple` by edge voxels, and cuts the logits back.

    Input (N, C, *size), two or three axes of size; output (N, M, *size), or a list of it (deep
    supervision): then sizes must be multiples already, or a SegmendError is raised.
    """

    def __init__(self, network: nn.Module, multiple: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.multiple = tuple(multiple)

    def forward(self, images: Tensor) -> Any:
        size = images.shape[2:]
        if len(size) != len(self.multiple):
            raise SegmendError(
                f"images: want (N, C, {len(self.multiple)} axes), got {tuple(images.shape)}"
            )
        missing = [-side % m for side, m in zip(size, self.multiple, strict=True)]
        cells = [(n + gap) // m for n, gap, m in zip(size, missing, self.multiple, strict=True)]
        if max(cells) == 1:  # instance norm wants more than one voxel in the deepest stage
            missing[-1] += self.multiple[-1]
        if any(missing):
            frame = [n for side in reversed(missing) for n in (0, side)]
            images = F.pad(images, frame, mode="replicate")
        logits = self.network(images)
        if not any(missing):
            return logits
        if not isinstance(logits, Tensor):
            raise SegmendError(
                f"images of size {tuple(size)}: with deep supervision want a multiple of "
                f"{self.multiple}; choose such a patch"
            )
        for axis, side in enumerate(size):
            logits = logits.narrow(axis + 2, 0, side)
        return logits


def build_volume_network(
    name: str = "plain_unet",
    *,
    in_channels: int = 1,
    out_channels: int = 2,
    widths: Sequence[int] = WIDTHS,
    patch: Sequence[int] = (64, 64, 64),
    spacing: Sequence[float] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """A network from volumes or images of any size to logits of that size.

    Args:
        name: "plain_unet" (ours; the published network's layout), or of MONAI: "dynunet" (nnU-Net's
            network; kernels and strides from `patch` and `spacing` by nnU-Net's rule), "segresnet",
            "basic_unet", "attention_unet".
        in_channels: modalities.
        out_channels: logit channels.
        widths: channels of the stages, finest first; with "dynunet" stages beyond them repeat the
            last one, and fewer are used where the patch allows no more.
        patch: training patch, three sides or two (then the network is for images).
        spacing: mm along each axis; None: equal.
        deep_supervision: a list of logits, finest first, while training; "plain_unet" alone.
    Raises:
        SegmendError: an unknown name (with the closest), MONAI missing, a patch too small.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(NETWORKS)}"
        raise SegmendError(f"network: unknown name {name!r}; {hint}")
    if deep_supervision and name != "plain_unet":
        raise SegmendError(f"deep_supervision: want network plain_unet, got {name!r}")
    if len(patch) not in (2, 3) or min(patch) < 2 * MIN_SIDE:
        raise SegmendError(f"patch: want 2 or 3 sides of at least {2 * MIN_SIDE}, got {patch}")
    return NETWORKS[name](
        _Asked(in_channels, out_channels, tuple(widths), tuple(patch), spacing, deep_supervision)
    )


class _Asked(NamedTuple):
    """What `build_volume_network` was asked for."""

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    patch: tuple[int, ...]
    spacing: Sequence[float] | None
    deep_supervision: bool


def dynunet_plan(
    patch: Sequence[int], spacing: Sequence[float] | None = None, *, stages: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Kernels and strides of the stages by nnU-Net's rule.

    An axis is halved while 2 × MIN_SIDE of it are left and its spacing is within twice the
    finest; kernels are 3 along axes within twice the finest spacing, else 1.

    Source: Isensee et al., Nature Methods 18 (2021); MONAI's dynunet_pipeline tutorial.
    """
    sides = [float(n) for n in patch]
    steps = [1.0] * len(sides) if spacing is None else [float(s) for s in spacing]
    kernels: list[list[int]] = []
    strides: list[list[int]] = [[1] * len(sides)]
    while True:
        near = [s <= 2 * min(steps) for s in steps]
        kernels.append([3 if n else 1 for n in near])
        halved = [n and side >= 2 * MIN_SIDE for n, side in zip(near, sides, strict=True)]
        if len(kernels) == stages or not any(halved):
            return kernels, strides
        strides.append([2 if h else 1 for h in halved])
        factors = strides[-1]
        sides = [side / f for side, f in zip(sides, factors, strict=True)]
        steps = [s * f for s, f in zip(steps, factors, strict=True)]


def _plain_unet(asked: _Asked) -> nn.Module:
    from segmend.models.plain_unet import PlainUNet

    return PlainUNet(  # pads nothing: it takes any size as it is
        asked.in_channels,
        asked.out_channels,
        widths=asked.widths,
        dimensions=2 if len(asked.patch) == 2 else 3,
        deep_supervision=asked.deep_supervision,
    )


def _dynunet(asked: _Asked) -> AnySize:
    kernels, strides = dynunet_plan(asked.patch, asked.spacing, stages=max(3, len(asked.widths)))
    filters = [asked.widths[min(i, len(asked.widths) - 1)] for i in range(len(kernels))]
    network = _monai().DynUNet(
        len(asked.patch),
        asked.in_channels,
        asked.out_channels,
        kernels,
        strides,
        strides[1:],
        filters,
    )
    multiple = [1] * len(asked.patch)
    for stride in strides:
        multiple = [m * s for m, s in zip(multiple, stride, strict=True)]
    return AnySize(network, multiple)


def _segresnet(asked: _Asked) -> AnySize:
    network = _monai().SegResNet(
        len(asked.patch), asked.widths[0], asked.in_channels, asked.out_channels
    )
    return AnySize(network, [8] * len(asked.patch))


def _basic_unet(asked: _Asked) -> AnySize:
    features = [*(asked.widths[min(i, len(asked.widths) - 1)] for i in range(5)), asked.widths[0]]
    network = _monai().BasicUNet(len(asked.patch), asked.in_channels, asked.out_channels, features)
    return AnySize(network, [16] * len(asked.patch))


def _attention_unet(asked: _Asked) -> AnySize:
    strides = [2] * (len(asked.widths) - 1)
    network = _monai().AttentionUnet(
        len(asked.patch), asked.in_channels, asked.out_channels, asked.widths, strides
    )
    return AnySize(network, [2 ** len(strides)] * len(asked.patch))


NETWORKS: dict[str, Callable[[_Asked], nn.Module]] = {
    "plain_unet": _plain_unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "basic_unet": _basic_unet,
    "attention_unet": _attention_unet,
}


def _monai() -> Any:
    try:
        import monai.networks.nets
    except ImportError as error:
        raise SegmendError(
            "this network is MONAI's, which is not installed: pip install 'segmend[medical]'; or "
            "choose network plain_unet"
        ) from error
    return monai.networks.nets
