"""The bias field: a small network that adds a smooth correction to a base model's logits.

A base's scores are too high in some regions and too low in others. Few degrees of freedom are
enough to say where (one number for every 2 x 2 to 8 x 8 pixels), and few are all that a validation
split of some twenty to a hundred images can pay for. Where it sees the image too, it may speak for
every pixel: outlines that the base has blurred are in the image. The field starts at exactly zero:
an untrained bias field *is* the base.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError

LOGIT_LIMIT = 8.0
"""Logits are clamped to this range before the network sees them: p = 0.99966 is certain enough."""

LOGIT_SCALE = 3.0
"""Divisor that brings clamped logits to about unit variance."""


def conv_unit(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation and ReLU.

    Not group or instance normalisation: those take away an image's own level of confidence,
    which is the very thing that a bias is read off.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class BiasField(nn.Module):
    """Correct logits by a smooth field that a small U-Net reads off the logits themselves.

    Args:
        channels: logit channels C of the base (1 for a binary problem).
        image_channels: 0 to see logits alone; 3 to see the RGB image beside them.
        width: channels of the first stage; the stages have 1, 2, 4 and 8 times as many.
        stride: pixels per field value along each axis, 1, 2, 4 or 8: small for small objects.
        shared: refine every channel by the same one-channel network (class-agnostic, for
            many classes or for classes not seen while fitting).

    Shapes:
        logits (N, C, H, W), any H and W; images (N, 3, H, W) in [0, 1] if `image_channels`;
        returns (N, C, H, W) corrected logits.

    Source: ours; measured beside the published recipe in docs/benchmarks/refine.md.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        image_channels: int = 0,
        width: int = 16,
        stride: int = 2,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if stride not in (1, 2, 4, 8):
            raise SegmendError(f"stride: want 1, 2, 4 or 8, got {stride}")
        if channels < 1 or width < 1:
            raise SegmendError(f"channels and width: want 1 or more, got {channels} and {width}")
        self.channels, self.image_channels, self.shared = channels, image_channels, shared
        seen = 1 if shared else channels
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = conv_unit(4 * (seen + image_channels), widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(conv_unit(a, b, stride=2), conv_unit(b, b))
            for a, b in itertools.pairwise(widths)
        )
        self.context = nn.Linear(widths[3], widths[3])
        stages = {8: 1, 4: 2, 2: 3, 1: 3}[stride]
        ups = [(widths[3 - i], widths[2 - i]) for i in range(stages)]
        self.up = nn.ModuleList(conv_unit(a + b, b) for a, b in ups)
        self.detail = (
            nn.Sequential(conv_unit(width + seen + image_channels, width), conv_unit(width, width))
            if stride == 1
            else None
        )
        self.head = nn.Conv2d(ups[-1][1], seen, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias if self.head.bias is not None else self.head.weight)

    def forward(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """Return `logits` plus the field; see the class for shapes."""
        if logits.ndim != 4 or logits.shape[1] != self.channels:
            raise SegmendError(
                f"logits: want (N, {self.channels}, H, W), got {tuple(logits.shape)}"
            )
        if (images is not None) != (self.image_channels > 0):
            raise SegmendError(
                "images: this bias field was built to see "
                + ("RGB images, got none" if self.image_channels else "logits alone, got images")
            )
        if self.shared:
            if images is not None:
                images = images.repeat_interleave(self.channels, dim=0)
            return logits + self.field(logits.flatten(0, 1).unsqueeze(1), images).view_as(logits)
        return logits + self.field(logits, images)

    def field(self, logits: Tensor, images: Tensor | None = None) -> Tensor:
        """The correction alone, at the size of `logits`."""
        height, width = logits.shape[-2:]
        x = logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT) / LOGIT_SCALE
        if images is not None:
            x = torch.cat([x, 2 * images - 1], dim=1)
        # 16 = unshuffle by 2 and three halvings, so that every skip has its partner's size.
        padding = (0, -width % 16, 0, -height % 16)
        pixels = F.pad(x, padding, mode="replicate")
        x = self.stem(F.pixel_unshuffle(pixels, 2))
        skips = [x]
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        x = x + self.context(x.mean(dim=(2, 3)))[:, :, None, None]
        for stage in self.up:
            skip = skips.pop()
            x = stage(torch.cat([F.interpolate(x, size=skip.shape[-2:]), skip], dim=1))
        size = pixels.shape[-2:]
        if self.detail is not None:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = self.detail(torch.cat([x, pixels], dim=1))
        field = F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)
        return field[..., :height, :width]
