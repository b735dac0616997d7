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
    rows: Tensor = _Rows.apply(logits, places.image, places.pixel)
    return rows


def repeated(table: Tensor, places: Places) -> Tensor:
    """Each pixel's image's row of a table (N, K): (M, K), in memory as `rows_of`'s.

    Places come image by image, and columns of one value are written faster than gathered.
    """
    counts = torch.bincount(places.image, minlength=len(table)).tolist()
    columns = [row[:, None].expand(-1, count) for row, count in zip(table, counts, strict=True)]
    none = table.T[:, :0]  # a batch may be empty
    return torch.cat([none, *columns], dim=1).T


class _Rows(torch.autograd.Function):
    """Plain indexing, but that its backward pass writes instead of adding up.

    No place comes twice, so that nothing has to be sorted or locked, which is what makes the
    general form many times slower. The gradient lies in memory as the logits do: what enlarged
    them is several times slower on one that does not.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, image: Tensor, pixel: Tensor) -> Tensor:
        ctx.save_for_backward(image, pixel)
        ctx.shape, ctx.like = logits.shape, logits.new_empty(0)
        last = torch.channels_last if logits.ndim == 4 else torch.channels_last_3d
        ctx.format = last if logits.is_contiguous(memory_format=last) else torch.contiguous_format
        flat = _class_by_class(logits)
        if len(image) == flat[0].numel():  # all of them: a copy is several times faster
            return flat.flatten(1).contiguous().T
        return flat[:, image, pixel].T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        image, pixel = ctx.saved_tensors
        full = torch.empty(
            ctx.shape, dtype=ctx.like.dtype, device=ctx.like.device, memory_format=ctx.format
        )
        flat = _class_by_class(full)
        if len(image) == flat[0].numel():
            flat.copy_(grad.T.reshape(flat.shape))
        else:
            full.zero_()
            flat[:, image, pixel] = grad.T.to(full.dtype)
        return full, None, None


def _class_by_class(maps: Tensor) -> Tensor:
    """(N, K, H, W) or with D as a view (K, N, pixels)."""
    return maps.flatten(2).transpose(0, 1)
