"""Tag evidence inside a segmenter: a class that the image does not seem to show is held back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError


def gate_logits(
    logits: Tensor, tag_logits: Tensor, *, background: int | None = 0, strength: float = 1.0
) -> Tensor:
    """Each class's logit plus strength * log sigmoid of its tag's logit.

    At strength 1 the odds of a class are multiplied by the probability of its tag: a soft form of
    masking by predicted tags, which training can adapt to. The background is left as it is.

    Args:
        logits: (N, K, H, W); tag_logits: (N, C), classes without the background.
        background: its label; None where all channels can be tags, as in a hierarchical head's
            class logits.
    Returns:
        As `logits`, float32 at least.
    Raises:
        SegmendError: shapes or options that do not fit.
    """
    tags = logits.shape[1] - (background is not None)
    if tag_logits.shape != (len(logits), tags):
        raise SegmendError(
            f"tag_logits: want {(len(logits), tags)} for logits {tuple(logits.shape)} and "
            f"background={background}, got {tuple(tag_logits.shape)}"
        )
    if not strength >= 0:
        raise SegmendError(f"strength: want a number from 0 up, got {strength}")
    precise = torch.promote_types(logits.dtype, torch.float32)
    held = strength * F.logsigmoid(tag_logits.to(precise))
    if background is not None:
        free = held.new_zeros(len(held), 1)
        held = torch.cat((held[:, :background], free, held[:, background:]), dim=1)
    return logits.to(precise) + held.view(*held.shape, *(1,) * (logits.ndim - 2))


class TagGate(nn.Module):
    """Tag logits from pooled features, and the gate that they set.

    `tag_logits(features)`: (N, in_channels, h, w) → (N, C). `forward(logits, tag_logits)` is
    `gate_logits`. `loss(tag_logits, tags)` is the weighted BCE that trains it. At inference it
    needs neither tags nor thresholds.

    Args:
        num_tags: C, classes without the background.
        weight: of the BCE; 0.3 in our trials.
        strength, background: as in `gate_logits`.
    """

    def __init__(
        self,
        in_channels: int,
        num_tags: int,
        *,
        weight: float = 0.3,
        strength: float = 1.0,
        background: int | None = 0,
    ) -> None:
        super().__init__()
        if num_tags < 1 or not weight >= 0:
            raise SegmendError(
                "num_tags, weight: want one class or more and a number from 0 up, got "
                f"{num_tags} and {weight}"
            )
        self.linear = nn.Linear(in_channels, num_tags)
        self.weight, self.strength, self.background = weight, strength, background

    def tag_logits(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tag logits (N, C) of features (N, D, h, w); valid (N, h, w) leaves padding out."""
        # A product of matrices, since its gradient is laid out as channels-last features are: that
        # of a plain sum is not, and adding the two took a sixth of a training step.
        cells = features.permute(0, 2, 3, 1).flatten(1, 2)
        inside = features.new_ones(cells.shape[:2]) if valid is None else valid.flatten(1).float()
        # Shares, not a sum that is divided: in float16 it could pass the largest number.
        shares = (inside / inside.sum(1, keepdim=True).clamp_min(1)).to(cells)
        scores: Tensor = self.linear((shares.unsqueeze(1) @ cells).squeeze(1))
        return scores

    def forward(self, logits: Tensor, tag_logits: Tensor) -> Tensor:
        return gate_logits(logits, tag_logits, background=self.background, strength=self.strength)

    def loss(self, tag_logits: Tensor, tags: Tensor) -> Tensor:
        """weight * BCE of the tags {0, 1} (N, C), a scalar."""
        if tags.shape != tag_logits.shape:
            raise SegmendError(f"tags: want {tuple(tag_logits.shape)}, got {tuple(tags.shape)}")
        return self.weight * F.binary_cross_entropy_with_logits(tag_logits.float(), tags.float())
