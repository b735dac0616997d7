"""One map from the global and the local output of PatchRefineNet."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.refine.network import RefinedLogits

MergeRule = Literal["published", "mean", "global", "local"]


def merge(refined: RefinedLogits, *, rule: MergeRule = "published") -> Tensor:
    """Merge both outputs of PatchRefineNet into logits (N, 1, H, W); `merge(...) > 0` is a mask.

    Args:
        refined: logits of both decoders, each float (N, C, H, W); `local` is None for P0, where
            the global logits come back whatever the rule ("local" excepted).
        rule: "published" (default): a pixel is foreground where the global output says so, or
            where a pixel of its 3x3 neighbourhood is foreground in both outputs; so the local
            output only adds a rim of one pixel. Given as logits whose threshold at any level
            equals that rule applied to both outputs cut at that level. "mean": mean of the two
            logits. "global", "local": one of them alone.

    Raises:
        SegmendError: unknown rule, unequal shapes, or "local" without a local output.

    Reference:
        Decision rule of the published prediction script (dilation by a 3x3 square, once).
    """
    if rule not in get_args(MergeRule):
        raise SegmendError(f"rule: want one of {', '.join(get_args(MergeRule))}, got {rule!r}")
    global_, local = refined
    if local is None:
        if rule == "local":
            raise SegmendError(
                "rule: 'local' needs a local output, got none (variant P0 has no local decoder); "
                "use 'global'"
            )
        return global_
    if global_.shape != local.shape or global_.ndim != 4:
        raise SegmendError(
            "refined: want two tensors (N, C, H, W) of one shape, "
            f"got {tuple(global_.shape)} and {tuple(local.shape)}"
        )
    if rule == "global":
        return global_
    if rule == "local":
        return local
    if rule == "mean":
        return (global_ + local) / 2
    return published_merge(global_, local)


def published_merge(global_: Tensor, local: Tensor) -> Tensor:
    """max(g, dilate3x3(min(g, l))) of float (N, C, H, W): and, or, dilation for all cuts at once.

    Works on logits and on probabilities alike: minimum, maximum and dilation commute with every
    increasing function, thresholds included.
    """
    agreed = F.max_pool2d(torch.minimum(global_, local), kernel_size=3, stride=1, padding=1)
    return torch.maximum(global_, agreed)
