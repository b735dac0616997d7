"""A head that decides foreground or background first, and the class of the foreground apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError


class HierarchicalLogits(NamedTuple):
    """What the head says of each pixel.

    logits: (N, K, H, W), log-probabilities of all classes: softmax, argmax and cross-entropy take
        them like any logits.
    background: (N, 1, H, W), the logit of background against foreground.
    classes: (N, K - 1, H, W), logits among the foreground classes, in label order.
    """

    logits: Tensor
    background: Tensor
    classes: Tensor


def hierarchical_logits(
    background_logits: Tensor, class_logits: Tensor, *, background: int = 0
) -> Tensor:
    """Log-probabilities of all classes from the two decisions.

    With z the background's logit and u those of the foreground classes: log p(background) =
    log sigmoid(z), log p(c) = log sigmoid(-z) + log softmax(u)_c. So p(background) does not
    contain u: a loss of u alone can move no mass into or out of the background.

    Args:
        background_logits: (N, 1, ...); class_logits: (N, C, ...), same type and size.
        background: label that the background gets, 0..C.
    Returns:
        (N, C + 1, ...), float32 at least.
    Raises:
        SegmendError: shapes that do not fit.
    """
    count = class_logits.shape[1]
    wanted = (len(class_logits), 1, *class_logits.shape[2:])
    if background_logits.shape != wanted or count < 1:
        raise SegmendError(
            f"background_logits: want {wanted} for class_logits {tuple(class_logits.shape)} with "
            f"one class or more, got {tuple(background_logits.shape)}"
        )
    if not 0 <= background <= count:
        raise SegmendError(f"background: want a label 0..{count}, got {background}")
    precise = torch.promote_types(class_logits.dtype, torch.float32)
    z, u = background_logits.to(precise), class_logits.to(precise)
    classes = F.logsigmoid(-z) + u.log_softmax(1)
    parts = (classes[:, :background], F.logsigmoid(z), classes[:, background:])
    return torch.cat(parts, dim=1)


class HierarchicalHead(nn.Module):
    """1×1 convolution for `hierarchical_logits`; stands where a plain 1×1 head would.

    Input (N, in_channels, H, W), output `HierarchicalLogits`.

    Args:
        num_classes: K, background included.
        background: its label.
    Raises:
        SegmendError: fewer than two classes, a label out of range.
    """

    def __init__(self, in_channels: int, num_classes: int, *, background: int = 0) -> None:
        super().__init__()
        if num_classes < 2 or not 0 <= background < num_classes:
            raise SegmendError(
                "num_classes, background: want 2 classes or more and a label among them, got "
                f"{num_classes} and {background}"
            )
        self.num_classes = num_classes
        self.background_label = background
        self.background = nn.Conv2d(in_channels, 1, 1)
        self.classes = nn.Conv2d(in_channels, num_classes - 1, 1)

    def forward(self, features: Tensor) -> HierarchicalLogits:
        z, u = self.background(features), self.classes(features)
        return HierarchicalLogits(hierarchical_logits(z, u, background=self.background_label), z, u)
