"""Networks that learn which neighbouring pixels belong together, from labels that maps suggest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.models.backbones import Backbone
from segmend.tags.affinity import (
    Offset,
    affinity_loss,
    half_plane_offsets,
    pair_labels,
    pairwise_affinity,
)
from segmend.tags.irn import boundary_affinity, boundary_walk, irn_loss, upsampled_scores
from segmend.tags.network import ImageNetwork
from segmend.tags.random_walk import random_walk

AffinityMethod = Literal["affinitynet", "irn"]


class Walk(NamedTuple):
    """How scores are spread: exponent of the affinities and number of steps.

    Published: AffinityNet 8 and 2**8 (SEAM and HFPL 2**6), IRN 10 and 2**8.
    """

    beta: float
    steps: int


class AffinityNet(ImageNetwork):
    """Features whose L1 distance says how unlike two pixels are, at the backbone's stride.

    The last three levels of the backbone, each through a 1x1 convolution (64, 128 and 256
    channels), joined by another one.

    Reference:
        Ahn and Kwak, CVPR 2018, and its published code (group norm before, as its VGG has it).
    """

    widths = (64, 128, 256)

    def __init__(self, backbone: Backbone, *, radius: int = 5) -> None:
        super().__init__(backbone)
        self.radius = radius
        levels = zip(backbone.channels[-3:], self.widths, strict=True)
        self.levels = nn.ModuleList(_tap(channels, width) for channels, width in levels)
        total = sum(self.widths)
        self.union = nn.Conv2d(total, total, 1, bias=False)

    @property
    def map_stride(self) -> int:
        """Pixels per cell of the affinities."""
        return self.output_stride

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 448, h, w)."""
        levels = self.backbone(self.prepared(images))[-3:]
        size = levels[-1].shape[2:]
        taps = [
            _to_size(F.elu(tap(level)), size)
            for tap, level in zip(self.levels, levels, strict=True)
        ]
        return F.elu(self.union(torch.cat(taps, 1)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss against labels (N, h, w) at the maps' size, 255 where nothing is known."""
        features = self(images)
        offsets = self.offsets(labels)
        return affinity_loss(pairwise_affinity(features, offsets), pair_labels(labels, offsets))

    def spread(self, scores: Tensor, images: Tensor, walk: Walk) -> Tensor:
        """Scores (N, K, H, W), background first if there is one, after the walk; same size."""
        features = self(images)
        offsets = self.offsets(features)
        small = _to_size(scores, features.shape[2:])
        walked = random_walk(
            small, pairwise_affinity(features, offsets), offsets, beta=walk.beta, steps=walk.steps
        )
        return _to_size(walked, scores.shape[2:])

    def offsets(self, maps: Tensor) -> Sequence[Offset]:
        """Pairs of neighbours on maps of this size."""
        return half_plane_offsets(self.radius, size=(maps.shape[-2], maps.shape[-1]))


class IRNet(ImageNetwork):
    """Class boundaries and displacements to object centres, at stride 4.

    Every level of the backbone gives 32 channels to the boundary and 64 to the displacement; the
    published displacement branch is deeper. Backbone weights stay as they are.

    Reference:
        Ahn et al., CVPR 2019, and its published code.
    """

    map_stride = 4

    def __init__(self, backbone: Backbone, *, radius: int = 10) -> None:
        super().__init__(backbone)
        self.radius = radius
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)
        count = len(backbone.channels)
        self.edge_taps = nn.ModuleList(_tap(c, 32) for c in backbone.channels)
        self.edge = nn.Conv2d(32 * count, 1, 1)
        self.shift_taps = nn.ModuleList(_tap(c, 64) for c in backbone.channels)
        self.shift = nn.Sequential(_tap(64 * count, 256), nn.ReLU(), nn.Conv2d(256, 2, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of a boundary (N, h, w) and displacement (N, 2, h, w)."""
        prepared = self.prepared(images)
        size = [side // self.map_stride for side in prepared.shape[2:]]
        with torch.no_grad():
            levels = self.backbone(prepared)
        edge = _joined(self.edge_taps, levels, size)
        shift: Tensor = self.shift(_joined(self.shift_taps, levels, size))
        return torch.sigmoid(self.edge(edge)[:, 0]), shift

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss against labels (N, h, w) at stride 4, 255 where nothing is known."""
        boundary, shift = self(images)
        offsets = half_plane_offsets(self.radius, size=(labels.shape[-2], labels.shape[-1]))
        pairs = pair_labels(labels, offsets)
        return irn_loss(boundary_affinity(boundary, offsets), shift, pairs, offsets)

    def spread(self, scores: Tensor, images: Tensor, walk: Walk) -> Tensor:
        """Foreground scores (N, C, H, W) after the walk, of any size, the images' or a smaller
        one; mirrored views are averaged."""
        boundary = self(images)[0]
        boundary = (boundary + self(images.flip(-1))[0].flip(-1)) / 2
        small = _to_size(scores, boundary.shape[1:])
        walked = boundary_walk(
            small, boundary, radius=self.radius // 2, beta=walk.beta, steps=walk.steps
        )
        size = (images.shape[2], images.shape[3])
        return _to_size(upsampled_scores(walked, size, stride=self.map_stride), scores.shape[2:])


def _tap(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(min(width // 8, 16), width)
    )


def _joined(taps: nn.ModuleList, levels: list[Tensor], size: Sequence[int]) -> Tensor:
    parts = [_to_size(F.relu(tap(x)), size) for tap, x in zip(taps, levels, strict=True)]
    return torch.cat(parts, 1)


def _to_size(maps: Tensor, size: Sequence[int]) -> Tensor:
    if list(maps.shape[2:]) == list(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
