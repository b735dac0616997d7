"""The wide ResNet-38 (model A1) as work on image tags uses it: dilated, at stride 8.

Names of parameters are those of the weights that this field shares, converted from the authors'
MXNet file, so that such a file loads as it is.

Reference:
    Wu, Shen, van den Hengel: Wider or Deeper, Pattern Recognition 2019 (arXiv 1611.10080).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmend.models.backbones import Backbone


class _Unit(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; a 1x1 one beside where shapes differ.

    `forward` also gives the input after its batch norm and ReLU: published features are read there.
    """

    def __init__(
        self, channels: int, middle: int, out: int, *, stride: int = 1, dilations: tuple[int, int]
    ) -> None:
        super().__init__()
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = _conv(channels, middle, 3, stride=stride, dilation=first)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv(middle, out, 3, dilation=second)
        if channels != out or stride != 1:
            self.conv_branch1 = _conv(channels, out, 1, stride=stride)
        self.projects = channels != out or stride != 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(before) if self.projects else x
        x = self.conv_branch2a(before)
        x = self.conv_branch2b1(torch.relu(self.bn_branch2b1(x)))
        return x + shortcut, before


class _Bottleneck(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolution, with dropout before the last two."""

    def __init__(
        self, channels: int, middle: int, inner: int, out: int, *, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = _conv(channels, middle, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _conv(middle, inner, 3, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(inner)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = _conv(inner, out, 1)
        self.conv_branch1 = _conv(channels, out, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.relu(self.bn_branch2a(x))
        x = self.conv_branch2a(before)
        x = self.conv_branch2b1(self.dropout_2b1(torch.relu(self.bn_branch2b1(x))))
        x = self.conv_branch2b2(self.dropout_2b2(torch.relu(self.bn_branch2b2(x))))
        return x + self.conv_branch1(before), before


class ResNet38(Backbone):
    """Levels at strides 2, 4, 8, 8, 8; the last three are the features of the literature.

    These are conv4 (512 channels) and conv5 (1024), read after the batch norm and ReLU that open
    the next stage, and conv6 (4096), which maps are drawn from. SEAM compares conv4 and conv5;
    affinity networks take the last three.

    Batch norm keeps its statistics in training, as published: ImageNet's fit, a small batch's do
    not. `width` scales all channels, for trials; the published weights want 1.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()

        def w(channels: int) -> int:
            return max(1, round(channels * width))

        self.conv1a = _conv(3, w(64), 3)
        # name, units, channels in, middle, out, stride of the first, its dilations, the others'
        stages = (
            ("b2", 3, 64, 128, 128, 2, (1, 1), 1),
            ("b3", 3, 128, 256, 256, 2, (1, 1), 1),
            ("b4", 6, 256, 512, 512, 2, (1, 1), 1),
            ("b5", 3, 512, 512, 1024, 1, (1, 2), 2),
        )
        self.units: list[list[str]] = []
        for name, count, channels, middle, out, stride, first, rest in stages:
            names = [name, *(f"{name}_{i}" for i in range(1, count))]
            self.units.append(names)
            unit = _Unit(w(channels), w(middle), w(out), stride=stride, dilations=first)
            self.add_module(names[0], unit)
            for other in names[1:]:
                unit = _Unit(w(out), w(middle), w(out), dilations=(rest, rest))
                self.add_module(other, unit)
        self.b6 = _Bottleneck(w(1024), w(512), w(1024), w(2048), dilation=4, dropout=0.3)
        self.b7 = _Bottleneck(w(2048), w(1024), w(2048), w(4096), dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(w(4096))
        self.channels = tuple(w(c) for c in (128, 256, 512, 1024, 4096))
        self.stride = 8
        self.correlated = (-3, -2)

    def train(self, mode: bool = True) -> ResNet38:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.conv1a(images)
        opened = []  # what each stage's first unit makes of the stage before
        for names in self.units:
            for index, name in enumerate(names):
                x, before = self.get_submodule(name)(x)
                if index == 0:
                    opened.append(before)
        x, conv5 = self.b6(x)
        x, _ = self.b7(x)
        return [*opened[1:], conv5, torch.relu(self.bn7(x))]


def _conv(channels: int, out: int, size: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    pad = dilation * (size // 2)
    return nn.Conv2d(channels, out, size, stride, padding=pad, dilation=dilation, bias=False)
