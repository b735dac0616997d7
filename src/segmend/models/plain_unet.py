"""A plain U-Net in 2D and 3D, built as nnU-Net does: instance norm, leaky ReLU, strided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segmend.errors import SegmendError

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_SLOPE = 0.01


class PlainUNet(nn.Module):
    """U-Net: two 3-convolutions with instance norm and leaky ReLU a stage, halved by stride 2.

    Args:
        in_channels: of the image.
        out_channels: logits.
        widths: channels a stage, from full resolution to the deepest; one stage more halves once
            more. nnU-Net and CoLab take (30, 60, 120, 240, 320).
        dimensions: 2 for (N, C, H, W), 3 for (N, C, H, W, D).
        deep_supervision: in training mode return a list of logits, one a decoder stage, full
            resolution first. In evaluation mode it is the full resolution alone.
    Shapes:
        Input float (N, in_channels, *size), any size; an axis of n is halved to (n + 1) // 2.
        Output (N, out_channels, *size).
    Raises:
        SegmendError: arguments that make no network; an image too small for its deepest stage, or
            without the right number of axes or channels.
    Reference: Isensee et al., Nature Methods 18 (2021); the CoLab segmenter has the same form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 96),
        dimensions: Literal[2, 3] = 2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if dimensions not in (2, 3):
            raise SegmendError(f"dimensions: want 2 or 3, got {dimensions!r}")
        if len(widths) < 2 or min(in_channels, out_channels, *widths) < 1:
            raise SegmendError(
                "PlainUNet: want channels >= 1 and at least two widths, got "
                f"{in_channels} in, {out_channels} out, widths {tuple(widths)}"
            )
        self.in_channels = in_channels
        self.widths, self.dimensions = tuple(widths), dimensions
        self.deep_supervision = deep_supervision
        above = (in_channels, *widths)
        self.down = nn.ModuleList(
            _stage(dimensions, above[i], width, stride=2 if i else 1)
            for i, width in enumerate(widths)
        )
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(
            _UP[dimensions](below, here, 2, stride=2, bias=False) for below, here in pairs
        )
        self.join = nn.ModuleList(_stage(dimensions, 2 * here, here) for _, here in pairs)
        supervised = pairs if deep_supervision else pairs[-1:]
        self.heads = nn.ModuleList(
            _CONV[dimensions](here, out_channels, 1) for _, here in supervised[::-1]
        )
        for module in self.modules():
            if isinstance(module, nn.modules.conv._ConvNd):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        self._check(images)
        skips = [self.down[0](images)]
        for stage in self.down[1:]:
            skips.append(stage(skips[-1]))
        x, decoded = skips[-1], []
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat((_cut(up(x), skip), skip), dim=1))
            decoded.append(x)
        if self.deep_supervision and self.training:
            return [head(x) for head, x in zip(self.heads, decoded[::-1], strict=True)]
        logits: Tensor = self.heads[0](x)
        return logits

    def _check(self, images: Tensor) -> None:
        if images.ndim != self.dimensions + 2 or images.shape[1] != self.in_channels:
            axes = "(N, C, H, W)" if self.dimensions == 2 else "(N, C, H, W, D)"
            raise SegmendError(
                f"images: want {axes} with {self.in_channels} channels, got {tuple(images.shape)}"
            )
        least = 2 ** (len(self.widths) - 1)
        if max(images.shape[2:]) <= least:  # instance norm needs more than one cell
            raise SegmendError(
                f"images: {len(self.widths)} stages want more than {least} pixels along some "
                f"axis, got {tuple(images.shape[2:])}; use larger crops or fewer widths"
            )


def _stage(dimensions: int, in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Module:
    layers: list[nn.Module] = []
    for before, step in ((in_channels, stride), (out_channels, 1)):
        layers += [
            _CONV[dimensions](before, out_channels, 3, stride=step, padding=1, bias=False),
            _NORM[dimensions](out_channels, affine=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


def _cut(x: Tensor, like: Tensor) -> Tensor:
    """An odd axis grows by one when it is halved and doubled: leave that out."""
    for axis in range(2, x.ndim):
        if x.shape[axis] != like.shape[axis]:
            x = x.narrow(axis, 0, like.shape[axis])
    return x
