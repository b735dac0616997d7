"""Two light decoders for SqueezeNet, three to six times cheaper than those of general libraries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.models.squeezenet import CHANNELS, SqueezeNetEncoder


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class SqueezeNetFPN(nn.Module):
    """Feature pyramid on SqueezeNet: logits at stride 4, made bilinearly as large as the input.

    Input (N, 3, H, W), normalised, H and W multiples of 16; output logits (N, num_classes, H, W).
    Reference: Lin et al., CVPR 2017; summed levels as in Kirillov et al., CVPR 2019.
    """

    def __init__(self, *, num_classes: int, width: int = 64, bundled_weights: bool = True) -> None:
        super().__init__()
        self.encoder = SqueezeNetEncoder(bundled_weights=bundled_weights)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in CHANNELS[1:])
        self.smooth = nn.ModuleList(conv_block(width, width) for _ in CHANNELS[1:])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = self.encoder(x)[2:]
        size = levels[0].shape[-2:]
        top: Tensor | None = None
        total: Tensor | None = None
        for level, lateral, smooth in reversed(
            list(zip(levels, self.lateral, self.smooth, strict=True))
        ):
            side = lateral(level)
            top = side if top is None else side + _resize(top, side.shape[-2:])
            part = _resize(smooth(top), size)
            total = part if total is None else total + part
        assert total is not None
        return _resize(self.head(total), x.shape[-2:])


class SqueezeNetUNet(nn.Module):
    """U-Net decoder on SqueezeNet: skips at strides 8, 4 and 2, logits at stride 2.

    Skips are first made as narrow as the decoder (1×1 convolution), which is what makes it cheap.
    Input, output and sizes as in `SqueezeNetFPN`. Reference: Ronneberger et al., MICCAI 2015.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        widths: tuple[int, int, int] = (96, 48, 32),
        bundled_weights: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = SqueezeNetEncoder(bundled_weights=bundled_weights)
        below = (CHANNELS[-1], *widths[:-1])
        skips = CHANNELS[-2::-1]
        self.narrow = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(skips, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(below, widths, strict=True))
        self.join = nn.ModuleList(conv_block(2 * w, w) for w in widths)
        self.head = nn.Conv2d(widths[-1], num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        *levels, y = self.encoder(x)[1:]
        for level, narrow, reduce, join in zip(
            reversed(levels), self.narrow, self.reduce, self.join, strict=True
        ):
            skip = narrow(level)
            y = join(torch.cat((_resize(reduce(y), skip.shape[-2:]), skip), dim=1))
        return _resize(self.head(y), x.shape[-2:])


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
