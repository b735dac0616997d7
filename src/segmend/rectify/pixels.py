"""Some pixels of a map of logits as rows, with a gradient that goes back to them alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Places(NamedTuple):
    """Where pixels are: int64 (M,) each, the image and the place in the flattened image."""

    image: Tensor
    pixel: Tensor


def places_of(mask: Tensor) -> Places:
    """The places where a mask (N, H, W) is True, image by image."""
    image, pixel = mask.flatten(1).nonzero(as_tuple=True)
    return Places(image, pixel)


def rows_of(logits: Tensor, places: Places) -> Tensor:
    """The logits (N, K, H, W) at these places, (M, K); in memory class by class.

    What follows works on whole classes at a time then, several times faster than on short rows.
    """
    flat = logits.flatten(2).transpose(0, 1)
    if len(places.image) == flat[0].numel():  # all of them: a copy is several times faster
        return flat.flatten(1).T
    rows: Tensor = _Rows.apply(logits, places.image, places.pixel)
    return rows


class _Rows(torch.autograd.Function):
    """Plain indexing, but that its backward pass writes instead of adding up.

    No place comes twice, so that nothing has to be sorted or locked, which is what makes the
    general form many times slower.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, image: Tensor, pixel: Tensor) -> Tensor:
        ctx.save_for_backward(image, pixel)
        ctx.shape, ctx.like = logits.shape, logits.new_empty(0)
        return logits.flatten(2).transpose(0, 1)[:, image, pixel].T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        image, pixel = ctx.saved_tensors
        full = ctx.like.new_zeros(ctx.shape)
        full.flatten(2).transpose(0, 1)[:, image, pixel] = grad.T.to(full.dtype)
        return full, None, None
