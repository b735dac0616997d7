"""Building blocks of the published refinement network; `network.py` puts them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormKind = Literal["batch", "group"]
MakeNorm = Callable[[int], nn.Module]

PYRAMID_BINS = (1, 2, 4, 8)
"""Cells a side of the four pooled maps. The last one fixes the size that maps are padded to."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can, in eval mode, use the statistics of the item at hand.

    With `batch_statistics = True` every item of an eval batch is normalised by its own mean and
    variance, and the running statistics stay as they are. For one item that is train-mode batch
    norm; because items do not mix, the patches of an image may share one batch.
    """

    batch_statistics: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if self.batch_statistics and not self.training:
            return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(input)

    def merged_into(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that equals `conv` and then this norm in eval mode."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert conv.bias is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        bias = (conv.bias - self.running_mean) * scale + self.bias
        return conv.weight * scale.view(-1, 1, 1, 1), bias


def make_norm(kind: NormKind) -> MakeNorm:
    """The constructor of a norm layer, by kind: (channels) -> module."""
    if kind == "batch":
        return BatchNorm
    return lambda channels: nn.GroupNorm(math.gcd(8, channels), channels)


class ConvNorm(nn.Module):
    """Convolution (same size, with bias) and norm; in eval mode the two are one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, make: MakeNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = make(outputs)

    def forward(self, features: Tensor) -> Tensor:
        norm = self.norm
        if self.training or not isinstance(norm, BatchNorm) or norm.batch_statistics:
            return norm(self.conv(features))  # type: ignore[no-any-return]
        return F.conv2d(features, *norm.merged_into(self.conv), padding=self.conv.padding)


class RecurrentUnit(nn.Module):
    """One conv-norm-ReLU applied three times with the same weights, fed its own output."""

    repeats = 2

    def __init__(self, channels: int, make: MakeNorm) -> None:
        super().__init__()
        self.unit = ConvNorm(channels, channels, 3, make)

    def forward(self, features: Tensor) -> Tensor:
        state = F.relu(self.unit(features), inplace=True)
        for _ in range(self.repeats):
            state = F.relu(self.unit(features + state), inplace=True)
        return state


class RecurrentResidualBlock(nn.Module):
    """1x1 projection plus two recurrent units on top of it."""

    def __init__(self, inputs: int, outputs: int, make: MakeNorm) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, outputs, 1)
        self.first = RecurrentUnit(outputs, make)
        self.second = RecurrentUnit(outputs, make)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return projected + self.second(self.first(projected))  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Features next to their means over 1, 2, 4 and 8 cells a side, mixed by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.priors = nn.ModuleList(
            nn.Conv2d(channels, channels, 1, bias=False) for _ in PYRAMID_BINS
        )
        self.mix = nn.Conv2d(channels * (len(PYRAMID_BINS) + 1), channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        levels = [
            F.interpolate(
                prior(cell_means(features, bins)), size=features.shape[-2:], mode="bilinear"
            )
            for prior, bins in zip(self.priors, PYRAMID_BINS, strict=True)
        ]
        return F.relu(self.mix(torch.cat([*levels, features], dim=1)), inplace=True)


def cell_means(features: Tensor, cells: int) -> Tensor:
    """Means over a grid of `cells` x `cells` equal cells.

    Adaptive average pooling where both sides are divisible, but written with shapes only, so that
    it keeps its meaning in an exported graph of dynamic size.
    """
    count, channels, height, width = features.shape
    grid = features.reshape(count, channels, cells, height // cells, cells, width // cells)
    return grid.mean(dim=(3, 5))


class AttentionGate(nn.Module):
    """Weighs each skip pixel by a number in (0, 1) seen from the decoder and the skip."""

    def __init__(self, channels: int, make: MakeNorm) -> None:
        super().__init__()
        self.from_decoder = ConvNorm(channels, channels // 2, 1, make)
        self.from_skip = ConvNorm(channels, channels // 2, 1, make)
        self.score = ConvNorm(channels // 2, 1, 1, make)

    def forward(self, decoded: Tensor, skip: Tensor) -> Tensor:
        seen = F.relu(self.from_decoder(decoded) + self.from_skip(skip), inplace=True)
        return skip * torch.sigmoid(self.score(seen))


class DecoderStage(nn.Module):
    """Twice the size, half the channels, with the gated skip of the encoder mixed in."""

    def __init__(self, channels: int, make: MakeNorm) -> None:
        super().__init__()
        self.up = ConvNorm(2 * channels, channels, 3, make)
        self.gate = AttentionGate(channels, make)
        self.block = RecurrentResidualBlock(2 * channels, channels, make)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        wider = F.interpolate(features, scale_factor=2.0, mode="nearest")
        decoded = F.relu(self.up(wider), inplace=True)
        return self.block(  # type: ignore[no-any-return]
            torch.cat([self.gate(decoded, skip), decoded], dim=1)
        )


class Encoder(nn.Module):
    """Four recurrent-residual stages at 1, 1/2, 1/4, 1/8 of the size; the last one pooled.

    Returns the feature maps, largest first.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], make: MakeNorm) -> None:
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.stages = nn.ModuleList(
            RecurrentResidualBlock(i, o, make) for i, o in zip(inputs, widths, strict=True)
        )
        self.pyramid = PyramidPooling(widths[-1])

    def forward(self, maps: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for stage in self.stages:
            maps = stage(F.max_pool2d(maps, 2) if features else maps)
            features.append(maps)
        features[-1] = self.pyramid(features[-1])
        return features


class Decoder(nn.Module):
    """From the smallest feature map back to one logit per pixel."""

    def __init__(self, widths: tuple[int, ...], head_kernel: int, make: MakeNorm) -> None:
        super().__init__()
        self.stages = nn.ModuleList(DecoderStage(width, make) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], 1, head_kernel, padding=head_kernel // 2)

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, decoded = features
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            decoded = stage(decoded, skip)
        return self.head(decoded)  # type: ignore[no-any-return]
