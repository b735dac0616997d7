"""Feature-similarity loss (FSL): maps differ where colours differ, and nowhere else."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import (
    SimilarityForm,
    at_least_float32,
    check_background,
    check_form,
    check_maps,
    check_valid,
    similarity_inputs,
)
from segmend.tags.similarity_window import PairTerm, similarity_field

SimilarityPath = Literal["auto", "dense", "window"]

WINDOW_SIGMAS = 5
"""Radius of the window in sigmas, rounded up: what is cut off is below float32's rounding."""
DENSE_CELLS = 32 * 32
"""Maps of up to so many cells take the dense path under "auto": a window saves nothing there."""


def feature_similarity_loss(
    maps: Tensor,
    images: Tensor,
    *,
    mu: float = 2.5,
    sigma: float | None = 5.0,
    exponent: float = 2.0,
    valid: Tensor | None = None,
    path: SimilarityPath = "auto",
    window: int | None = None,
) -> Tensor:
    """Mean over pixels of the local average of -t(colour difference) times map difference.

    L = -(1 / M) sum over ordered pairs (i, j) of one image of g_ij t(d_ij) D_ij, with M the pixels
    of the batch; d = mean over RGB of |x_i - x_j|; t(d) = tanh(mu + log((d + e) / (1 - d + e))),
    e = 1e-5; D = 1/2 sum over channels of |u_i - u_j|^exponent; g = exp(-r^2 / (2 sigma^2)) /
    (2 pi sigma^2), r the distance in cells. Alike in colour (t < 0): differences cost. Unlike:
    they pay, so that the loss may be negative; maps must be bounded (on raw logits it has no
    lower bound), as those of `similarity_inputs` are.

    Args:
        maps: u, float (N, K, h, w), background included; usually in [0, 1].
        images: RGB in [0, 1], float (N, 3, H, W); resized to (h, w) as published (bilinear,
            align_corners=True), clamped to [0, 1]. They get no gradient.
        mu: 2.5 (HFPL): t changes its sign at d = sigmoid(-mu) = 0.076.
        sigma: width in cells, 5 (HFPL, stride 8: 40 input pixels; take 2.5 at stride 16). None:
            g = 1 / pixels of the image.
        exponent: 2 (HFPL), at least 1. Others take a slower path, channel by channel.
        valid: bool (N, h, w): only pairs of these pixels count, only these are in M, whatever maps
            and images hold elsewhere. None (default): all. Nothing valid gives 0.
        path: "dense": all pairs. "window": pairs within `window` cells, across and down. "auto"
            (default): dense up to 32 x 32 cells or without sigma, else window. Memory is that of
            a few rows' pairs either way.
        window: radius in cells; None: ceil(5 sigma). Dropped pairs change the loss by at most
            `gaussian_tail(window, sigma)` * max |t| * max D, with |t| < 1 and D <= K / 2 for maps
            in [0, 1] (1 for a softmax), exponent >= 1: the first factor is below 1e-6 at 5 sigma,
            2e-4 at 4 and 6e-3 at 3 (sigma 5).

    Returns:
        float32 (or float64) scalar, computed in that precision under autocast, too.
        Differentiable once in the maps.

    Raises:
        SegmendError: a shape, dtype or option is not as above.

    Reference:
        Published code of HFPL (`tool/probutils.py`), equal in value and gradient; ICAM leaves out
        the 1/2. Ours: t as the rational function (k p^2 - q^2) / (k p^2 + q^2), k = exp(2 mu),
        p = d + e, q = 1 - d + e, and with exponent 2 the loss as the quadratic form of a graph
        Laplacian, whose gradient comes with its value; `valid`.
    """
    _check(maps, images, sigma, exponent, path, window)
    if valid is not None:
        check_valid(valid, maps)
    with torch.autocast(maps.device.type, enabled=False):
        maps = at_least_float32(maps)
        radius = _radius(maps, sigma, path, window)
        term = PairTerm(float(mu), sigma, radius, float(exponent))
        loss: Tensor = _PairLoss.apply(maps, _colours(images, maps), valid, term)
        return loss


class FeatureSimilarityLoss(nn.Module):
    """`feature_similarity_loss`, of maps as they are or of logits and tags.

    `loss(maps, images)` compares the maps; `loss(logits, images, tags)` makes them first, by
    `similarity_inputs` with `form` and `background`. Shapes, options, reference: see those two.
    """

    def __init__(
        self,
        *,
        mu: float = 2.5,
        sigma: float | None = 5.0,
        exponent: float = 2.0,
        path: SimilarityPath = "auto",
        window: int | None = None,
        form: SimilarityForm = "binomial",
        background: int | None = 0,
    ) -> None:
        super().__init__()
        check_form(form, SimilarityForm)
        check_background(background)
        _check_options(sigma, exponent, path, window)
        self.mu, self.sigma, self.exponent = mu, sigma, exponent
        self.path: SimilarityPath = path
        self.window = window
        self.form: SimilarityForm = form
        self.background = background

    def forward(
        self,
        maps: Tensor,
        images: Tensor,
        tags: Tensor | None = None,
        *,
        valid: Tensor | None = None,
    ) -> Tensor:
        if tags is not None:
            maps = similarity_inputs(
                maps, tags, form=self.form, background=self.background, valid=valid
            )
        return feature_similarity_loss(
            maps,
            images,
            mu=self.mu,
            sigma=self.sigma,
            exponent=self.exponent,
            valid=valid,
            path=self.path,
            window=self.window,
        )


class _PairLoss(torch.autograd.Function):
    """The loss and, at no further cost, its gradient in the maps: colours are constants."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, colours: Tensor, valid: Tensor | None, term: PairTerm
    ) -> Tensor:
        count = maps.new_tensor(len(maps) * maps[0, 0].numel() if len(maps) else 0)
        if valid is not None:
            maps, count = maps.masked_fill(~valid.unsqueeze(1), 0), valid.sum()
        count = count.clamp(min=1)
        centred = maps - maps.mean((2, 3), keepdim=True)  # differences stay, rounding shrinks
        field, loss = torch.zeros_like(maps), maps.new_zeros(())
        for n, (image_maps, image) in enumerate(zip(centred, colours, strict=True)):
            known = None if valid is None else valid[n]
            field[n] = similarity_field(image_maps, image, known, term)
            loss -= (image_maps * field[n]).sum()
        ctx.save_for_backward(field, count)
        ctx.exponent = term.exponent
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        field, count = ctx.saved_tensors
        return field * (-ctx.exponent * grad / count), None, None, None


def _colours(images: Tensor, maps: Tensor) -> Tensor:
    """Images at the maps' size and dtype, in [0, 1], without a graph."""
    images = images.detach().to(maps.dtype)
    if images.shape[2:] != maps.shape[2:]:
        images = F.interpolate(images, size=maps.shape[2:], mode="bilinear", align_corners=True)
    return images.clamp(0, 1)


def _radius(maps: Tensor, sigma: float | None, path: SimilarityPath, window: int | None) -> int:
    """The window in cells; the longer side of the maps where there is none."""
    rows, cols = maps.shape[2:]
    dense = path == "dense" or (path == "auto" and window is None and rows * cols <= DENSE_CELLS)
    if dense or sigma is None:
        return max(rows, cols)
    return math.ceil(WINDOW_SIGMAS * sigma) if window is None else window


def _check(
    maps: Tensor,
    images: Tensor,
    sigma: float | None,
    exponent: float,
    path: str,
    window: int | None,
) -> None:
    check_maps("maps", maps)
    _check_options(sigma, exponent, path, window)
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[:2] != (len(maps), 3) or not images.is_floating_point():
        raise SegmendError(
            f"images: want float ({len(maps)}, 3, H, W) in [0, 1], one for each of the maps, got "
            f"{images.dtype} {shape}"
        )


def _check_options(sigma: float | None, exponent: float, path: str, window: int | None) -> None:
    if path not in get_args(SimilarityPath):
        raise SegmendError(f"path: want one of {get_args(SimilarityPath)}, got {path!r}")
    if sigma is not None and not sigma > 0:
        raise SegmendError(f"sigma: want a number above 0 (cells), or None, got {sigma!r}")
    if not exponent >= 1:
        raise SegmendError(f"exponent: want at least 1, got {exponent!r}")
    if window is not None and (window < 1 or path == "dense"):
        raise SegmendError(
            f'window: want at least 1 cell, and none with path "dense", got {window!r} with '
            f"path {path!r}"
        )
    if sigma is None and (path == "window" or window is not None):
        raise SegmendError("sigma=None weighs all pairs alike: want path auto or dense, no window")
