"""Class activation maps as tensors: normalised for training and inference, background, labels."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError

Form = Literal["binomial", "multinomial"]
SimilarityForm = Literal["binomial", "competitive", "multinomial"]
Normalisation = Literal["max", "min-max", "range"]

RANGE_EPSILON = 1e-8
"""Epsilon of "range" (MCTformer); the other two have 1e-5."""


def max_norm(logits: Tensor, *, epsilon: float = 1e-5, valid: Tensor | None = None) -> Tensor:
    """Maps in [0, 1) for training: relu(m - min - e) / (max - min + e) of m = relu(logits).

    Args:
        logits: class activation maps before any activation, float (N, C, h, w).
        epsilon: e, 1e-5 as published: a constant map gives 0.
        valid: bool (N, h, w), the pixels that minimum and maximum are taken over; others become
            0. None (default): all.

    Returns:
        (N, C, h, w), float32 at least. Differentiable, through minimum and maximum, too.

    Raises:
        SegmendError: a shape or dtype is not as above.

    Reference:
        Published code of SEAM and HFPL (`max_norm`).
    """
    check_maps("logits", logits)
    maps, outside = at_least_float32(logits), None
    if valid is not None:
        check_valid(valid, logits)
        outside = ~valid.unsqueeze(1)
        maps = maps.masked_fill(outside, 0)  # the maximum stays: m is never below 0
    maps = torch.relu(maps)
    most = maps.amax((2, 3), keepdim=True)
    least = (maps if outside is None else maps.where(~outside, most)).amin((2, 3), keepdim=True)
    normed = torch.relu(maps - least - epsilon) / (most - least + epsilon)
    return normed if outside is None else normed.masked_fill(outside, 0)


def similarity_inputs(
    logits: Tensor,
    tags: Tensor,
    *,
    form: SimilarityForm = "binomial",
    background: int | None = 0,
    valid: Tensor | None = None,
) -> Tensor:
    """The maps that the feature-similarity loss compares, all in [0, 1].

    By themselves, max-normalised maps do not know of each other: the loss pays each of them for
    following the strongest edges of the image, so that in an image of several tags all take the
    same shape, and flood into each other. "competitive" pays a class for a pixel only by its share
    in it. It is the published form, "binomial", wherever one tag alone has a value.

    Args:
        logits: float (N, C, h, w) of the C classes that can be tagged. With form "multinomial"
            and a background: (N, 1 + C, h, w), background first.
        tags: (N, C) in {0, 1}, bool or number; an image may have none.
        form: "binomial" (default, HFPL): max-normalised maps, 0 where the tag is; with a
            background, 1 - their maximum is put in front. "competitive" (ours): the same
            background, and each class's map m_c times its share of all, m_c^2 / sum_k m_k.
            "multinomial" (its predecessor ICAM): softmax over channels, whatever the tags.
        background: 0 (default), or None for data whose pixels all belong to a taggable class.
        valid: bool (N, h, w), see `max_norm`; maps are 0 outside, the background as well.

    Returns:
        (N, K, h, w), float32 at least; K is 1 + C with a background, else C. Differentiable.

    Raises:
        SegmendError: a shape, dtype or option is not as above.

    Reference:
        Published code of HFPL (`train_cam_voc.py`) and ICAM.
    """
    check_form(form, SimilarityForm)
    check_background(background)
    check_maps("logits", logits)
    extra = int(form == "multinomial" and background is not None)
    present = check_tags(tags, logits, extra=extra)
    if valid is not None:
        check_valid(valid, logits)
        logits = logits.masked_fill(~valid.unsqueeze(1), 0)
    if form == "multinomial":
        maps = torch.softmax(at_least_float32(logits), 1)
    else:
        maps = max_norm(logits, valid=valid).masked_fill(~present[:, :, None, None], 0)
        own = maps
        if form == "competitive":
            own = maps * (maps / maps.sum(1, keepdim=True).clamp(min=1e-12))
        maps = own if background is None else torch.cat([1 - maps.amax(1, keepdim=True), own], 1)
    return maps if valid is None else maps.masked_fill(~valid.unsqueeze(1), 0)


def normalise_cams(
    cams: Tensor,
    tags: Tensor | None = None,
    *,
    method: Normalisation = "min-max",
    epsilon: float | None = None,
    absent: float = 0.0,
) -> Tensor:
    """Class activation maps for inference, each class of each image scaled to [0, 1] by itself.

    Args:
        cams: float (N, C, h, w), summed over scales and flips.
        tags: (N, C) in {0, 1}; maps of classes that are not tagged become `absent`. None: all
            classes are present.
        method: with minimum and maximum over the pixels of a map m and e = `epsilon`,
            "min-max" (default; SEAM, HFPL): (m - min - e) / (max - min + e), m = relu(cams), set
            to 0 below min + e; as published, its least value is a little below 0;
            "max" (AffinityNet, IRN): m / (max + e), m = relu(cams); published with a relu before
            the sum over scales, too;
            "range" (MCTformer): (m - min) / (max - min + e), m = cams.
        epsilon: None (default): as published, 1e-5, for "range" 1e-8.
        absent: value of absent classes, 0 by default (-1 in the code of SEAM and HFPL).

    Returns:
        (N, C, h, w), float32 at least.

    Raises:
        SegmendError: a shape, dtype or option is not as above.
    """
    check_maps("cams", cams)
    if method not in get_args(Normalisation):
        raise SegmendError(f"method: want one of {get_args(Normalisation)}, got {method!r}")
    if epsilon is None:
        epsilon = RANGE_EPSILON if method == "range" else 1e-5
    maps = at_least_float32(cams)
    if method != "range":
        maps = torch.relu(maps)
    most = maps.amax((2, 3), keepdim=True)
    if method == "max":
        maps = maps / (most + epsilon)
    else:
        least = maps.amin((2, 3), keepdim=True)
        if method == "min-max":
            maps = maps.masked_fill(maps < least + epsilon, 0) - epsilon
        maps = (maps - least) / (most - least + epsilon)
    if tags is None:
        return maps
    return maps.masked_fill(~check_tags(tags, cams)[:, :, None, None], absent)


def share_classes(cams: Tensor, plain: Tensor, tags: Tensor, *, share: float) -> Tensor:
    """Maps of one network, with another one's say in which class a place shows (ours).

    A network that an add-on loss shapes knows where objects are and where they end, but may have
    learned less about which is which than a plain one beside it. With m the normalised maps of
    `cams` and p those of `plain`, a place keeps the most that any tag's m has there, and tags get
    it by v = (1 - `share`) m + `share` p: out = max_k m_k * v / max_k v_k.

    An image of one tag keeps its normalised map; so does every image with a share of 0.

    Args:
        cams, plain: class activation maps, float (N, C, h, w), summed over scales and flips.
        tags: (N, C) in {0, 1}; maps of classes that are not tagged become 0.
        share: of `plain`, from 0 to 1.

    Returns:
        (N, C, h, w) in [0, 1], float32 at least.

    Raises:
        SegmendError: a shape, dtype or option is not as above.
    """
    if not 0 <= share <= 1:
        raise SegmendError(f"share: want 0 to 1, got {share}")
    if cams.shape != plain.shape:
        raise SegmendError(
            f"plain: want the shape of cams, {tuple(cams.shape)}, got {tuple(plain.shape)}"
        )
    own = normalise_cams(cams, tags).clamp(min=0)
    voted = (1 - share) * own + share * normalise_cams(plain, tags).clamp(min=0)
    tiny = torch.finfo(voted.dtype).tiny
    return own.amax(1, keepdim=True) * (voted / voted.amax(1, keepdim=True).clamp(min=tiny))


def background_score(
    cams: Tensor, *, constant: float | None = None, power: float | None = None
) -> Tensor:
    """Background score (N, h, w) beside normalised maps: a constant, or (1 - max)^power.

    Args:
        cams: normalised class activation maps, float (N, C, h, w).
        constant: the score itself. Published: 0.2 AffinityNet, 0.26 SEAM and HFPL, 0.15 IRN.
        power: a small one gives much background, a large one little. Published pairs for labels:
            4 and 32 (AffinityNet), 1 and 24 (HFPL), 1 and 12 (MCTformer).

    Raises:
        SegmendError: not exactly one of `constant` and `power` is given, or cams are not as above.
    """
    check_maps("cams", cams)
    cams = at_least_float32(cams)
    if constant is not None and power is None:
        return cams.new_full((cams.shape[0], *cams.shape[2:]), constant)
    if constant is None and power is not None and power > 0:
        return (1 - cams.amax(1)).clamp(min=0) ** power
    raise SegmendError(
        f"want exactly one of constant and power (above 0), got constant={constant}, power={power}"
    )


def labels_from_cams(
    cams: Tensor,
    tags: Tensor,
    *,
    constant: float | None = None,
    power: float | None = None,
    background: int | None = 0,
    ignore_index: int = 255,
) -> Tensor:
    """The class of every pixel: the largest of the tagged classes' maps and the background.

    Args:
        cams: normalised class activation maps, float (N, C, h, w).
        tags: (N, C) in {0, 1}; no other class wins.
        constant, power: the background's score, see `background_score`; exactly one of them, and
            none without a background. The background wins where it is equal.
        background: 0 (default): labels are 0 and 1 + class. None: labels are the class.
        ignore_index: without a background, the label of an image that has no tag.

    Returns:
        int64 (N, h, w).

    Raises:
        SegmendError: a shape, dtype or option is not as above.
    """
    check_background(background)
    check_maps("cams", cams)
    present = check_tags(tags, cams)[:, :, None, None]
    best, winner = at_least_float32(cams).masked_fill(~present, -torch.inf).max(1)
    if background is None:
        if constant is not None or power is not None:
            raise SegmendError("constant, power: want neither where background=None")
        return winner.masked_fill(~present.any(1), ignore_index)
    kept = cams.masked_fill(~present, 0)
    return torch.where(best > background_score(kept, constant=constant, power=power), winner + 1, 0)


def at_least_float32(values: Tensor) -> Tensor:
    """The same in float32, or in float64 if it was: half precision is too coarse for sums."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_maps(name: str, maps: Tensor) -> None:
    """Raise unless `maps` is float (N, C, h, w) with at least one class and one pixel."""
    if maps.ndim != 4 or not maps.is_floating_point() or 0 in maps.shape[1:]:
        found = f"{maps.dtype} {tuple(maps.shape)}"
        raise SegmendError(f"{name}: want float (N, C, h, w), none of C, h, w 0, got {found}")


def check_tags(tags: Tensor, maps: Tensor, *, extra: int = 0) -> Tensor:
    """Tags as bool (N, C), C being the channels of `maps` less `extra` for the background."""
    wanted = (maps.shape[0], maps.shape[1] - extra)
    if tuple(tags.shape) != wanted or tags.is_complex():
        raise SegmendError(
            f"tags: want {wanted}, one column a class without background, for maps of shape "
            f"{tuple(maps.shape)}, got {tags.dtype} {tuple(tags.shape)}"
        )
    return tags if tags.dtype == torch.bool else tags > 0.5  # values unread: that syncs a GPU


def check_valid(valid: Tensor, maps: Tensor) -> None:
    """Raise unless `valid` is bool in the shape of `maps` without its channels."""
    wanted = (maps.shape[0], *maps.shape[2:])
    if valid.dtype != torch.bool or tuple(valid.shape) != wanted:
        raise SegmendError(f"valid: want bool {wanted}, got {valid.dtype} {tuple(valid.shape)}")


def check_form(form: str, forms: Any = Form) -> None:
    """Raise unless `form` is one of those that are known."""
    if form not in get_args(forms):
        raise SegmendError(f"form: want one of {get_args(forms)}, got {form!r}")


def check_background(background: int | None) -> None:
    """Raise unless the background is class 0, or there is none."""
    if background not in (0, None):
        raise SegmendError(f"background: want 0 or None, got {background!r}")
