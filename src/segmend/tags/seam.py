"""SEAM's losses: two views of an image, and their revised maps, are to say the same."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import (
    at_least_float32,
    check_maps,
    check_tags,
    check_valid,
    max_norm,
)
from segmend.tags.pixel_correlation import harden, with_background

Normaliser = Literal["all", "present"]

HARDEST_SHARE = 0.2
"""Published share of the largest differences in the cross loss."""


def min_pooling_loss(revised: Tensor, tags: Tensor, valid: Tensor | None = None) -> Tensor:
    """Push the least activated quarter of each image down: its mean strongest revised score.

    Args:
        revised: float (N, 1 + C, h, w), of `PixelCorrelation`; the background is not used.
        tags: (N, C) in {0, 1}.
        valid: bool (N, h, w), pixels that count. None (default, published): all.
    Returns:
        Scalar: mean over images of the quarter (rounded down, at least 1 pixel) with the smallest
        relu(max over tagged classes); 0 for an image without a valid pixel.
    """
    check_maps("revised", revised)
    present = check_tags(tags, revised, extra=1)[:, :, None, None]
    inside = _inside(valid, revised)
    counted = present & inside.unsqueeze(1)  # before the maximum: NaN must not reach the gradient
    strongest = at_least_float32(revised[:, 1:]).masked_fill(~counted, 0).amax(1).flatten(1)
    inside = inside.flatten(1)
    strongest = strongest.masked_fill(~inside, torch.inf)
    least = strongest.topk(max(1, strongest.shape[1] // 4), dim=1, largest=False).values
    counts = (inside.sum(1) // 4).clamp(min=1)
    dropped = (torch.arange(least.shape[1], device=least.device) >= counts[:, None]) | least.isinf()
    return (torch.relu(least.masked_fill(dropped, 0)).sum(1) / counts).mean()


def equivariance_loss(
    cams: Tensor,
    other: Tensor,
    tags: Tensor,
    valid: Tensor | None = None,
    *,
    normalise: Normaliser = "all",
) -> Tensor:
    """ER: mean absolute difference of two views' maps.

    Args:
        cams, other: normalised maps of the object classes at one size, float (N, C, h, w).
        tags: (N, C) in {0, 1}; other classes count as 0.
        valid: bool (N, h, w), pixels that count. None (default, published): all.
        normalise: "all" (published): mean over all C classes, so that a present class weighs
            1 / C, a quarter on COCO of what it does on VOC. "present": over tagged classes.
    Returns:
        Scalar; 0 without any tag or valid pixel.
    Raises:
        SegmendError: shapes or the option are not as above.
    """
    _check_pair("cams", cams, other, normalise)
    present, inside = check_tags(tags, cams), _inside(valid, cams)
    counted = present[:, :, None, None] & inside.unsqueeze(1)
    one, two = (at_least_float32(maps).masked_fill(~counted, 0) for maps in (cams, other))
    count = counted.sum() if normalise == "present" else inside.sum() * cams.shape[1]
    return (one - two).abs().sum() / count.clamp(min=1)


def cross_loss(
    revised: Tensor,
    other: Tensor,
    tags: Tensor,
    valid: Tensor | None = None,
    *,
    share: float = HARDEST_SHARE,
    normalise: Normaliser = "all",
) -> Tensor:
    """One half of ECR: revised maps against the other view's hardened maps, hardest pixels only.

    Args:
        revised: normalised revised maps with background, float (N, 1 + C, h, w).
        other: normalised maps of the other view with background, same shape; detached here.
        tags: (N, C) in {0, 1}; other classes count as 0.
        valid: bool (N, h, w), pixels that count. None (default, published): all.
        share: of the elements of each image, largest differences first, that the mean is over.
        normalise: "all" (published): `share` of (1 + C) * pixels elements; "present": of
            (1 + number of tags) * pixels.
    Returns:
        Scalar, the mean over images. At least one element of each counts.
    Raises:
        SegmendError: shapes or options are not as above.
    """
    _check_pair("revised", revised, other, normalise)
    if not 0 < share <= 1:
        raise SegmendError(f"share: want above 0 and at most 1, got {share}")
    present = F.pad(check_tags(tags, revised, extra=1), (1, 0), value=True)
    inside = _inside(valid, revised)
    counted = present[:, :, None, None] & inside.unsqueeze(1)
    hard, soft = harden(at_least_float32(other).detach()), at_least_float32(revised)
    apart = (hard.masked_fill(~counted, 0) - soft.masked_fill(~counted, 0)).abs().flatten(1)
    hardest = apart.topk(max(1, int(apart.shape[1] * share)), dim=1).values
    channels = present.sum(1) if normalise == "present" else present.shape[1]
    counts = ((inside.flatten(1).sum(1) * channels).double() * share).long().clamp(min=1)
    kept = torch.arange(hardest.shape[1], device=apart.device) < counts[:, None]
    return (hardest.masked_fill(~kept, 0).sum(1) / counts).mean()


class SeamLosses(NamedTuple):
    """The scalars of `seam_losses`; `total` adds what the published training adds."""

    classification: Tensor
    min_pooling: Tensor
    equivariance: Tensor
    cross: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the four."""
        return self.classification + self.min_pooling + self.equivariance + self.cross


def seam_losses(
    logits: tuple[Tensor, Tensor],
    revised: tuple[Tensor, Tensor],
    tags: Tensor,
    valid: tuple[Tensor, Tensor] | None = None,
    *,
    full_view_loss: Tensor | None = None,
    normalise: Normaliser = "all",
) -> SeamLosses:
    """All losses of SEAM from two views of a batch.

    Args:
        logits: class activation maps before any activation, float (N, C, h, w) of the full view
            and (N, C, h', w') of the small one (published: 0.3 of the full view).
        revised: revised maps of both, (N, 1 + C, ...) of the same sizes.
        tags: (N, C) in {0, 1}.
        valid: bool (N, h, w) and (N, h', w'), pixels that are image. None (default, published):
            all, padding of a crop included.
        full_view_loss: scalar that replaces the soft-margin loss of the full view; HFPL puts its
            mix with the importance-sampling loss here and leaves the small view as it is.
        normalise: `equivariance_loss`, `cross_loss`.
    Returns:
        Means over both views of the soft-margin loss of averaged logits and of the min-pooling
        loss; ER; the sum of both halves of ECR.
    Raises:
        SegmendError: shapes or the option are not as above.
    Reference:
        Wang et al., CVPR 2020, and the published training script.
    """
    present = check_tags(tags, logits[0])
    whole, small = valid or (None, None)
    if full_view_loss is None:
        full_view_loss = _soft_margin(logits[0], present, whole)
    classification = (full_view_loss + _soft_margin(logits[1], present, small)) / 2
    least = min_pooling_loss(revised[0], tags, whole) + min_pooling_loss(revised[1], tags, small)
    # Everything at the small view's size; classes without a tag are 0 before the background.
    size, absent = logits[1].shape[2:], ~present[:, :, None, None]

    def normed(views: tuple[Tensor, Tensor]) -> list[Tensor]:
        pairs = zip(views, (whole, small), strict=True)
        return [_resized(max_norm(maps, valid=inside), size) for maps, inside in pairs]

    one, other = (maps.masked_fill(absent, 0) for maps in normed(logits))
    one_revised, other_revised = normed(revised)
    cross = cross_loss(one_revised, with_background(other), tags, small, normalise=normalise)
    cross = cross + cross_loss(
        other_revised, with_background(one), tags, small, normalise=normalise
    )
    equivariance = equivariance_loss(one, other, tags, small, normalise=normalise)
    return SeamLosses(classification, least / 2, equivariance, cross)


def _soft_margin(logits: Tensor, present: Tensor, valid: Tensor | None) -> Tensor:
    """Multi-label soft-margin loss of the mean logits of the valid pixels."""
    inside = _inside(valid, logits).unsqueeze(1)
    total = at_least_float32(logits).masked_fill(~inside, 0).sum((2, 3))
    scores = total / inside.sum((2, 3)).clamp(min=1)
    return F.multilabel_soft_margin_loss(scores, present.to(scores.dtype))


def _inside(valid: Tensor | None, maps: Tensor) -> Tensor:
    """`valid`, or all pixels of `maps`: bool (N, h, w)."""
    if valid is None:
        return torch.ones_like(maps[:, 0], dtype=torch.bool)
    check_valid(valid, maps)
    return valid


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def _check_pair(name: str, maps: Tensor, other: Tensor, normalise: str) -> None:
    check_maps(name, maps)
    if other.shape != maps.shape:
        raise SegmendError(
            f"other: want the shape {tuple(maps.shape)} of {name}, got {tuple(other.shape)}; "
            "resize both views to one size first"
        )
    if normalise not in get_args(Normaliser):
        raise SegmendError(f"normalise: want one of {get_args(Normaliser)}, got {normalise!r}")
