"""Convolutions of one small volume on a CPU, as fast as they could be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ONEDNN_ABOVE = 20480
"""PyTorch's own rule: oneDNN convolves one sample if channels x depth x height are above this."""


class _Enlarged(TorchFunctionMode):
    """`conv3d` of a small single volume: rows of zeros are added, or the volume taken twice.

    Zeros at the end change no result but those of the rows added; zeros or a second volume,
    whichever is less, bring it over PyTorch's bound.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.conv3d or kwargs or not _is_slow(args[0]):
            return func(*args, **(kwargs or {}))
        x, *rest = args
        stride = rest[2] if len(rest) > 2 else 1
        step = stride if isinstance(stride, int) else stride[1]
        missing = ONEDNN_ABOVE // (x.shape[1] * x.shape[2]) + 1 - x.shape[3]
        steps = -(-missing // step)
        if steps * step < x.shape[3]:
            found = func(F.pad(x, (0, 0, 0, steps * step)), *rest)
            return found[:, :, :, : found.shape[3] - steps]
        return func(x.expand(2, -1, -1, -1, -1), *rest)[:1]


def _is_slow(x: Tensor) -> bool:
    small = x.ndim == 5 and len(x) == 1 and x[0, :, :, :, 0].numel() <= ONEDNN_ABOVE
    return small and x.device.type == "cpu" and x.dtype == torch.float32


@contextmanager
def quick_single_volumes(images: Tensor) -> Iterator[None]:
    """Within, networks of one volume (1, C, D, H, W) on a CPU do not take PyTorch's slow path.

    A convolution of one small volume takes three to ten times as long there as one of two
    (measured with PyTorch 2.15), with gradients and in forward mode, too. Any other `images`:
    nothing changes.
    """
    if images.ndim == 5 and len(images) == 1 and images.device.type == "cpu":
        with _Enlarged():
            yield
    else:
        yield
