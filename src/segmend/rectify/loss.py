"""Group ranking: pixels that wear an impossible class are pushed to the possible ones."""

from __future__ import annotations

import math
from types import EllipsisType
from typing import Literal, get_args

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.rectify.candidates import check_logits, out_of_candidate_mask
from segmend.rectify.groups import Groups, Splitter, all_candidates
from segmend.rectify.pixels import Places, places_of, repeated, rows_of
from segmend.rectify.ranking import Form, group_ranking

Average = Literal["oc", "all", "every"]

LARGEST = 1e20  # of a logit; a pixel with one beyond is left out, like one with infinities


def rectification_loss(
    logits: Tensor,
    candidates: Tensor,
    *,
    form: Form = "foreground",
    groups: Splitter | None = None,
    margin: float = 0.0,
    average: Average = "oc",
    stride: int = 1,
    valid: Tensor | None = None,
    background: int | None = 0,
    class_logits: Tensor | None = None,
) -> Tensor:
    """How far the impossible classes are above the possible ones, at out-of-candidate pixels.

    With I the in-candidate and O the out-of-candidate group of a pixel, s its logits, m the
    margin, and LSE the logarithm of a sum of exponentials:

    "all"         softplus(m + LSE_O(s) + LSE_I(-s)): every i in I shall beat every o in O. The
                  published idea as far as it can be inferred. The strongest pull goes to the
                  lowest candidate, mostly the background.
    "any"         softplus(m + LSE_O(s) - LSE_I(s)): the best i shall. With m = 0 and fixed groups
                  it is -log of the candidates' probability.
    "foreground"  "any" among the foreground classes alone: the background's logit has a gradient
                  of exactly 0. Nothing is asked where the image has no foreground candidate.
    "max"         softplus(m + max_O(s) - max_I(s)), the limit of "any" for sharp logits.
    "hinge"       the sum over all pairs of max(0, m + s_o - s_i).

    Args:
        logits: float (N, K, H, W), or with D; any size of values in half precision too.
        candidates: bool (N, K), see `candidates_of`.
        groups: splits the classes at each pixel; None: all candidates against all others.
            `AdaptiveSplit` is the paper's. "foreground" takes the background out of both groups.
        margin: added to every difference, in logits; 0 is our default, none is published.
        average: "oc" is the mean over out-of-candidate pixels, "all" their sum over the number of
            valid pixels, "every" the mean over all valid pixels, also those that are right.
        stride: one pixel in so many along each axis is looked at. Logits that were enlarged from
            features change slowly; "every" is then as cheap as the others.
        valid: bool (N, H, W), for instance False where a crop was padded. Tags hold where
            pseudo-labels are unsure, so such pixels are best left in.
        background: its label, or None; "foreground" is then "any".
        class_logits: float (N, C, H, W), the foreground classes' own logits of a hierarchical
            head. They are ranked instead of `logits` (which tell the pixels), and what is not
            among their ancestors, the background's logit first of all, has no gradient.
    Returns:
        Scalar, float32 at least; 0 with a graph where there is nothing to rectify. A pixel with a
        logit that is not finite (or beyond 1e20) is in neither sum nor count.
    Raises:
        SegmendError: shapes, types or options that do not fit.
    Source:
        Cheng et al., CVPR 2023 (OCR); no code or formula was available, see the documentation for
        what is inferred.
    """
    _check(form, average, margin, stride, background, logits)
    check_logits(logits, candidates, valid)
    ranked = _ranked(logits, class_logits, background)
    if stride > 1:
        grid: tuple[slice | EllipsisType, ...]
        grid = (..., *[slice(None, None, stride)] * (logits.ndim - 2))
        logits, ranked = logits[grid], ranked[grid]
        valid = None if valid is None else valid[grid]
    with torch.no_grad():
        asked = _asked(logits, candidates, valid, average=average)
        places = places_of(asked)
    rows = rows_of(ranked, places)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    usable = rows.detach().abs().amax(1) <= LARGEST  # a NaN is not
    if not bool(usable.all()):
        rows = rows.masked_fill(~usable[:, None], 0.0)
    inside, outside = _groups(
        logits, places, candidates, groups or all_candidates,
        background=background, with_background=form != "foreground" and class_logits is None,
        drop_column=class_logits is not None,
    )  # fmt: skip
    each = group_ranking(rows, Groups(inside, outside), form=form, margin=margin)
    each = each.where(usable, 0.0)
    left_out = len(usable) - int(usable.sum())
    count = len(usable)
    if average == "all":
        count = asked.numel() if valid is None else int(valid.sum())
    return each.sum() / max(count - left_out, 1)


def _asked(logits: Tensor, candidates: Tensor, valid: Tensor | None, *, average: Average) -> Tensor:
    if average != "every":
        return out_of_candidate_mask(logits, candidates, valid=valid)
    return torch.ones_like(logits[:, 0], dtype=torch.bool) if valid is None else valid


def _ranked(logits: Tensor, class_logits: Tensor | None, background: int | None) -> Tensor:
    """The logits to rank."""
    if class_logits is None:
        return logits
    channels = logits.shape[1] - (background is not None)
    wanted = (len(logits), channels, *logits.shape[2:])
    if class_logits.shape != wanted or not class_logits.is_floating_point():
        raise SegmendError(
            f"class_logits: want float {wanted} for logits {tuple(logits.shape)}, got "
            f"{class_logits.dtype} {tuple(class_logits.shape)}"
        )
    return class_logits


@torch.no_grad()
def _groups(
    logits: Tensor,
    places: Places,
    candidates: Tensor,
    split: Splitter,
    *,
    background: int | None,
    with_background: bool,
    drop_column: bool,
) -> Groups:
    """The groups of each pixel, with or without the background, as wide as what is ranked."""
    hidden = background is not None and not with_background
    if hidden:
        candidates = candidates.clone()
        candidates[:, background] = False
    fixed = split is all_candidates
    if fixed and drop_column:  # before there is a row a pixel
        candidates = _without(candidates, background)
    own = repeated(candidates, places)
    found = Groups(own, ~own) if fixed else split(rows_of(logits, places), own)
    if not hidden:
        return found
    if drop_column:
        return found if fixed else Groups(*(_without(group, background) for group in found))
    outside = found.outside.clone()
    outside[:, background] = False
    return Groups(found.inside, outside)


def _without(groups: Tensor, background: int | None) -> Tensor:
    """Without the background's column; in memory class by class."""
    if background is None:
        return groups
    return torch.cat((groups.T[:background], groups.T[background + 1 :])).T


def _check(
    form: str, average: str, margin: float, stride: int, background: int | None, logits: Tensor
) -> None:
    if form not in get_args(Form):
        raise SegmendError(f"form: want one of {get_args(Form)}, got {form!r}")
    if average not in get_args(Average):
        raise SegmendError(f"average: want one of {get_args(Average)}, got {average!r}")
    if not math.isfinite(margin):
        raise SegmendError(f"margin: want a number, got {margin}")
    if stride < 1:
        raise SegmendError(f"stride: want 1 or more, got {stride}")
    if background is not None and logits.ndim > 1 and not 0 <= background < logits.shape[1]:
        raise SegmendError(f"background: want a label 0..{logits.shape[1] - 1}, got {background}")
