"""Maps revised by pixel correlation: a pixel takes the mean of the pixels that look like it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import at_least_float32, check_maps, check_valid

_EPSILON = 1e-5


def with_background(cams: Tensor) -> Tensor:
    """Maps (N, C, h, w) in [0, 1] with 1 - their maximum in front: (N, 1 + C, h, w)."""
    return torch.cat([1 - cams.amax(1, keepdim=True), cams], 1)


def harden(cams: Tensor) -> Tensor:
    """Only the strongest object class of each pixel survives; the background, channel 0, stays.

    Args:
        cams: float (N, 1 + C, h, w). It is not changed: the published function writes into its
            argument, and thereby into the maps of the other view. Equal classes all survive.
    """
    objects = cams[:, 1:]
    best = objects.amax(1, keepdim=True)
    return torch.cat([cams[:, :1], objects.masked_fill(objects != best, 0)], 1)


def correlation_input(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """What pixel correlation revises: maximum-normalised, hardened maps and their background.

    Args:
        logits: float (N, C, h, w) of the object classes.
        valid: bool (N, h, w), pixels that are image; the others get no class. None: all.
    Returns:
        (N, 1 + C, h, w) in [0, 1], without gradient: relu(m - 1e-5) / (max m + 1e-5) of
        m = relu(logits), with 1 - maximum in front.
    """
    check_maps("logits", logits)
    if valid is not None:
        check_valid(valid, logits)
        logits = logits.masked_fill(~valid.unsqueeze(1), 0)
    maps = torch.relu(at_least_float32(logits.detach()))
    most = maps.amax((2, 3), keepdim=True)
    return harden(with_background(torch.relu(maps - _EPSILON) / (most + _EPSILON)))


def pixel_correlation(cams: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Revise maps by the mean over all pixels, weighted by how alike their features are.

    Args:
        cams: float (N, K, h, w), of `correlation_input`; resized bilinearly, corners aligned, to
            the features.
        features: float (N, D, H, W).
        valid: bool (N, H, W), pixels that are image: the others give nothing and become 0. None
            (default, published): all, padding of a crop included.
    Returns:
        (N, K, H, W), at least float32: M A with A = relu(cosine of features), each column
        divided by its sum + 1e-5. Memory: N * (H * W)^2 numbers.
    Raises:
        SegmendError: shapes are not as above.
    Reference:
        Wang et al., CVPR 2020 (SEAM).
    """
    if cams.ndim != 4 or features.ndim != 4 or len(cams) != len(features):
        raise SegmendError(
            "pixel_correlation: want cams (N, K, h, w) and features (N, D, H, W), got "
            f"{tuple(cams.shape)} and {tuple(features.shape)}"
        )
    size = features.shape[2:]
    maps = F.interpolate(at_least_float32(cams), size, mode="bilinear", align_corners=True)
    if valid is not None:
        check_valid(valid, features)
        outside = ~valid.unsqueeze(1)  # a feature of zeros is like nothing
        maps, features = maps.masked_fill(outside, 0), features.masked_fill(outside, 0)
    maps, directions = maps.flatten(2), at_least_float32(features).flatten(2)
    directions = directions / (directions.norm(dim=1, keepdim=True) + _EPSILON)
    alike = torch.relu(directions.transpose(1, 2) @ directions)
    # Columns are divided after the product: K rows instead of H * W.
    revised = (maps @ alike) / (alike.sum(1, keepdim=True) + _EPSILON)
    return revised.reshape(*maps.shape[:2], *size)


class PixelCorrelation(nn.Module):
    """SEAM's pixel correlation module: features of a backbone and the image revise its maps.

    Args:
        middle_channels, late_channels: of two feature maps at one stride (published: 512 and
            1024, of stages 4 and 5 of ResNet-38).
        widths: channels of the projections of the two and of their union with the image
            (published: 64, 128 and 192).
    """

    def __init__(
        self,
        middle_channels: int = 512,
        late_channels: int = 1024,
        *,
        widths: tuple[int, int, int] = (64, 128, 192),
    ) -> None:
        super().__init__()
        self.middle = nn.Conv2d(middle_channels, widths[0], 1, bias=False)
        self.late = nn.Conv2d(late_channels, widths[1], 1, bias=False)
        self.union = nn.Conv2d(3 + widths[0] + widths[1], widths[2], 1, bias=False)

    def forward(
        self,
        logits: Tensor,
        images: Tensor,
        middle: Tensor,
        late: Tensor,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Revised maps (N, 1 + C, H, W) of logits (N, C, h, w), at the size of `middle`.

        No gradient reaches logits, middle and late: only the projections learn from the result.
        `images` is (N, 3, any, any) as the backbone sees it; `late` has the size of `middle`,
        and so have `logits` and `valid` (see `pixel_correlation`) if that is given.
        """
        small = F.interpolate(images, middle.shape[2:], mode="bilinear", align_corners=True)
        parts = [small, torch.relu(self.middle(middle.detach()))]
        parts.append(torch.relu(self.late(late.detach())))
        features = self.union(torch.cat(parts, 1))
        return pixel_correlation(correlation_input(logits, valid), features, valid)
