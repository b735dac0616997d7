"""From several backgrounds back to one: for predictions, and for networks that are handed on."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segmend.context.labels import count_channels
from segmend.errors import SegmendError

Merge = Literal["argmax", "sum"]


def merge_background(
    logits: Tensor, *, num_context: int, num_classes: int, merge: Merge = "argmax"
) -> Tensor:
    """Logits of ordinary classes from logits with several backgrounds.

    Args:
        logits: float (N, M, ...), channels as `compose_context_labels` orders them,
            M = num_classes + num_context - 1.
        merge: "argmax" (default, published): the background is its strongest context; so the label
            is the argmax over all channels. "sum": the background has the probability of all its
            contexts together, which is what the meta-objective trains, and finds less foreground.
    Returns:
        (N, num_classes, ...), background first. "sum" keeps the softmax of the foreground exactly.
    Raises:
        SegmendError: a wrong number of channels or an unknown merge.
    """
    contexts = _contexts(logits, "logits", num_context, num_classes, merge)
    background = contexts.amax(1) if merge == "argmax" else contexts.logsumexp(1)
    return torch.cat((background.unsqueeze(1), logits[:, 1:num_classes]), dim=1)


def merge_background_probs(
    probs: Tensor, *, num_context: int, num_classes: int, merge: Merge = "argmax"
) -> Tensor:
    """The same for probabilities: the background has its strongest context's, or their sum.

    With "argmax" what comes back sums to less than 1; with "sum" to 1.
    """
    contexts = _contexts(probs, "probs", num_context, num_classes, merge)
    background = contexts.amax(1) if merge == "argmax" else contexts.sum(1)
    return torch.cat((background.unsqueeze(1), probs[:, 1:num_classes]), dim=1)


class MergedNetwork(nn.Module):
    """A network whose several backgrounds are one again: nobody downstream needs to know.

    Args:
        network: returns logits (N, M, *size), or a list or tuple of them (deep supervision), of
            which each is merged.
        single_logit: give (N, 1, *size), foreground minus background, whose sigmoid is the
            foreground's softmax; for two classes.
    Other arguments and errors as in `merge_background`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_context: int,
        num_classes: int = 2,
        merge: Merge = "argmax",
        single_logit: bool = False,
    ) -> None:
        super().__init__()
        count_channels(num_classes=num_classes, num_context=num_context)
        _check_merge(merge)
        if single_logit and num_classes != 2:
            raise SegmendError(f"single_logit: only for 2 classes, got {num_classes}")
        self.network = network
        self.num_context, self.num_classes = num_context, num_classes
        self.merge: Merge = merge
        self.single_logit = single_logit

    def forward(self, images: Tensor) -> Any:
        found = self.network(images)
        if isinstance(found, (list, tuple)):
            return type(found)(self._merged(logits) for logits in found)
        return self._merged(found)

    def _merged(self, logits: Tensor) -> Tensor:
        merged = merge_background(
            logits, num_context=self.num_context, num_classes=self.num_classes, merge=self.merge
        )
        return merged[:, 1:] - merged[:, :1] if self.single_logit else merged


def merged_copy(
    network: nn.Module,
    *,
    num_context: int,
    num_classes: int = 2,
    merge: Merge = "argmax",
    single_logit: bool = False,
) -> MergedNetwork:
    """A copy of a network in evaluation mode, its backgrounds merged; see `MergedNetwork`."""
    return MergedNetwork(
        copy.deepcopy(network),
        num_context=num_context,
        num_classes=num_classes,
        merge=merge,
        single_logit=single_logit,
    ).eval()


def _contexts(scores: Tensor, name: str, num_context: int, num_classes: int, merge: str) -> Tensor:
    channels = count_channels(num_classes=num_classes, num_context=num_context)
    _check_merge(merge)
    if scores.ndim < 2 or scores.shape[1] != channels or not scores.is_floating_point():
        raise SegmendError(
            f"{name}: want float (N, {channels}, ...) for {num_classes} classes and "
            f"{num_context} contexts, got {scores.dtype} {tuple(scores.shape)}"
        )
    return torch.cat((scores[:, :1], scores[:, num_classes:]), dim=1)


def _check_merge(merge: str) -> None:
    if merge not in get_args(Merge):
        raise SegmendError(f"merge: want one of {get_args(Merge)}, got {merge!r}")
