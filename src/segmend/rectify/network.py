"""A segmenter with the parts of rectification: hierarchical head, tag gate, start from CAMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.segmenters import IMAGENET_MEAN, IMAGENET_STD
from segmend.rectify.decoders import DeepLab, Features, SmpTrunk, build_trunk
from segmend.rectify.gate import TagGate
from segmend.rectify.head import hierarchical_logits

Head = Literal["plain", "hierarchical"]


@dataclass(frozen=True)
class RectifiedSpec:
    """All that is needed to build the network again before its weights are loaded."""

    architecture: str
    encoder: str
    num_classes: int
    background: int | None
    head: Head = "hierarchical"
    gate: bool = True


class Reading(NamedTuple):
    """What the network says of a batch.

    logits: (N, K, H, W). classes: (N, C, H, W), the foreground classes' own logits of a
    hierarchical head, None otherwise. tags: tag logits (N, C), None without a gate. cells: (N, K,
    h, w), what the head said, gated, before it was enlarged; they cover `covered`, height and
    width with the padding.
    """

    logits: Tensor
    classes: Tensor | None
    tags: Tensor | None
    cells: Tensor
    covered: tuple[int, int]

    def cut(self, height: int, width: int) -> Reading:
        """Without padding right and below."""
        if self.logits.shape[-2:] == (height, width):
            return self
        classes = None if self.classes is None else self.classes[..., :height, :width]
        return self._replace(logits=self.logits[..., :height, :width], classes=classes)


class RectifiedSegmenter(nn.Module):
    """Images in [0, 1] of any size in, logits (N, K, H, W) of that size out.

    `read` also gives what the losses need. Without a background the head is plain.

    Args:
        trunk: images → `Features`, with `head_channels`, `top_channels`, `multiple`.
        spec: what to build on it.
        gate_strength: see `gate_logits`.
        tag_weight: of the gate's BCE.
    Raises:
        SegmendError: fewer than two classes, a hierarchical head without a background.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: DeepLab | SmpTrunk,
        spec: RectifiedSpec,
        *,
        gate_strength: float = 1.0,
        tag_weight: float = 0.3,
    ) -> None:
        super().__init__()
        if spec.num_classes < 2:
            raise SegmendError(f"num_classes: want 2 or more, got {spec.num_classes}")
        if spec.head == "hierarchical" and spec.background is None:
            raise SegmendError(
                "head: hierarchical wants a background class, the data has none; say head=plain"
            )
        self.trunk, self.spec = trunk, spec
        num_tags = spec.num_classes - (spec.background is not None)
        # One convolution in both heads: a channel a class, the background's among them.
        self.head = nn.Conv2d(trunk.head_channels, spec.num_classes, 1)
        self.gate = (
            TagGate(
                trunk.top_channels, num_tags, weight=tag_weight, strength=gate_strength,
                background=spec.background,
            )
            if spec.gate
            else None
        )  # fmt: skip
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(images).logits

    def read(self, images: Tensor, valid: Tensor | None = None) -> Reading:
        """Logits and their parts for images (N, 3, H, W); valid (N, H, W) leaves padding out of
        the gate's evidence."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise SegmendError(
                f"images: want float (N, 3, H, W) in [0, 1], got {images.dtype} "
                f"{tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        below, right = -height % self.trunk.multiple, -width % self.trunk.multiple
        x = F.pad((images - self.mean) / self.std, (0, right, 0, below), mode="replicate")
        features = self.trunk(x)
        inside = None
        if valid is not None or below or right:
            inside = torch.ones_like(images[:, 0], dtype=torch.bool) if valid is None else valid
            inside = F.pad(inside, (0, right, 0, below))
        return self.decide(features, (height + below, width + right), inside).cut(height, width)

    def decide(
        self, features: Features, size: tuple[int, int], valid: Tensor | None = None
    ) -> Reading:
        """From features to logits of a size: head, gate, and what `enlarged` does."""
        scores = self.head(features.head)
        tags = None
        if self.gate is not None:
            top = features.top
            if valid is not None:
                cells = F.interpolate(valid[:, None].float(), size=top.shape[2:], mode="area")
                valid = cells[:, 0] >= 0.5
            tags = self.gate.tag_logits(top, valid)
            scores = self.gate(scores, tags)
        return self.enlarged(scores.float(), size)._replace(tags=tags)

    def on_grid(self, reading: Reading, stride: int, padding: Tensor) -> tuple[Reading, Tensor]:
        """A reading and its padding, bool (N, H, W), at every `stride`-th pixel or so.

        The grid is laid over the cells, not over their enlarged form: a loss on it costs little,
        and so does its gradient.
        """
        size = (-(-reading.covered[0] // stride), -(-reading.covered[1] // stride))
        below, right = (a - b for a, b in zip(reading.covered, padding.shape[1:], strict=True))
        padded = F.pad(padding, (0, right, 0, below), value=True)[:, None].float()
        outside = F.interpolate(padded, size=size, mode="nearest-exact")[:, 0] > 0
        grid = self.enlarged(reading.cells, size, layout=torch.channels_last)
        return grid._replace(tags=reading.tags), outside

    def enlarged(
        self,
        cells: Tensor,
        size: tuple[int, int],
        *,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Reading:
        """Cells bilinearly up to a size, then the hierarchy; without tags.

        `layout`: of the foreground classes in memory. The hierarchy is quicker class by class, the
        way back to the cells with channels last.
        """

        def bilinear(x: Tensor) -> Tensor:
            return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

        b = self.spec.background
        if self.spec.head == "plain" or b is None:
            return Reading(bilinear(cells), None, None, cells, size)
        # Parted while they are small: the gradient of a slice is as large as what it is cut from.
        behind = bilinear(cells[:, b : b + 1])
        parts = torch.cat((cells[:, :b], cells[:, b + 1 :]), dim=1)
        classes = bilinear(parts.contiguous(memory_format=layout))
        logits = hierarchical_logits(behind, classes, background=b)
        return Reading(logits, classes, None, cells, size)

    @torch.no_grad()
    def start_from_maps(self, weight: Tensor) -> None:
        """Start as a tag classifier: its weights (C, T) on the last level give the class logits
        and the tag logits; the background's logit and all weights on the context start at 0.

        Raises:
            SegmendError: weights of another size, or a trunk whose head does not see its last
                level (only DeepLab's of segmend do).
        """
        b, channels = self.spec.background, self.trunk.top_channels
        wanted = (self.spec.num_classes - (b is not None), channels)
        weight = weight.flatten(1)
        if tuple(weight.shape) != wanted or not isinstance(self.trunk, DeepLab):
            raise SegmendError(
                f"weights of the tag classifier: want {wanted} on a DeepLab trunk, got "
                f"{tuple(weight.shape)} on {type(self.trunk).__name__}"
            )
        self.head.weight.zero_()
        assert self.head.bias is not None
        self.head.bias.zero_()
        rows = [k for k in range(self.spec.num_classes) if k != b]
        self.head.weight[rows, :channels, 0, 0] = weight
        if self.gate is not None:
            self.gate.linear.weight.copy_(weight)
            self.gate.linear.bias.zero_()


def build_rectified(
    spec: RectifiedSpec,
    *,
    weights: str = "bundled",
    gate_strength: float = 1.0,
    tag_weight: float = 0.3,
) -> RectifiedSegmenter:
    """The network of a spec; errors as in `build_trunk` and `RectifiedSegmenter`."""
    trunk = build_trunk(spec.architecture, spec.encoder, weights=weights)
    return RectifiedSegmenter(trunk, spec, gate_strength=gate_strength, tag_weight=tag_weight)
