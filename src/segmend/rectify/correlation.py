"""How often classes go together: the prior annotation correlation of a training set's tags."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmend.errors import SegmendError
from segmend.rectify.candidates import candidates_of


class LabelCorrelation(nn.Module):
    """P(a is a tag | b is a tag), counted over images and smoothed; its counts are saved with it.

    `update` adds images as they come, `matrix` reads what was seen so far.

    The formula is inferred, since none is published: (n_ab + 1) / (n_b + C), Laplace's rule, so
    that pairs which a small set lacks are rare, not impossible.

    Args:
        num_tags: C, the classes that can be a tag (without the background).
    Raises:
        SegmendError: fewer than one class.
    """

    together: Tensor
    images: Tensor

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        if num_tags < 1:
            raise SegmendError(f"num_tags: want at least 1 class, got {num_tags}")
        self.num_tags = num_tags
        zero = torch.zeros((), dtype=torch.int64)
        self.register_buffer("together", zero.expand(num_tags, num_tags).clone())
        self.register_buffer("images", zero.clone())

    @classmethod
    def from_tags(cls, tags: Tensor) -> LabelCorrelation:
        """Counted from a whole table of tags (N, C)."""
        found = cls(tags.shape[1] if tags.ndim == 2 else 0)
        found.update(tags)
        return found

    @torch.no_grad()
    def update(self, tags: Tensor) -> None:
        """Add images: tags {0, 1} (N, C)."""
        present = candidates_of(tags, num_classes=self.num_tags, background=None)
        # float32 counts a batch exactly up to 2^24 images, and integers have no matmul on a GPU.
        present = present.to(device=self.together.device, dtype=torch.float32)
        self.together += (present.T @ present).round().to(torch.int64)
        self.images += len(present)

    def merge(self, other: LabelCorrelation) -> None:
        """Add what another one has counted, on another machine for instance."""
        if other.num_tags != self.num_tags:
            raise SegmendError(f"other: counts {other.num_tags} classes, this one {self.num_tags}")
        self.together += other.together.to(self.together.device)
        self.images += other.images.to(self.images.device)

    @property
    def matrix(self) -> Tensor:
        """Float32 (C, C): row a, column b is P(a | b); before any update all 1 / C."""
        counts = self.together.to(torch.float32)
        return (counts + 1) / (counts.diagonal() + self.num_tags)


def candidate_prior(
    matrix: Tensor, leaders: Tensor, candidates: Tensor, *, background: int | None = 0
) -> Tensor:
    """How well each candidate goes with the class that a pixel wears.

    Args:
        matrix: (C, C) from `LabelCorrelation.matrix`.
        leaders: int64 (M,), labels in [0, K); not the background.
        candidates: bool (M, K), of each pixel's image.
        background: its label. It goes with everything, so that its own counts would say nothing:
            it gets the largest value among the image's tags, or 1 without tags (inferred).
    Returns:
        Float (M, K), 0 for what is no candidate; rows sum to 1 where there is a candidate.
    """
    if background is None:
        prior = matrix.T[leaders].masked_fill(~candidates, 0.0)
    else:
        tags = torch.cat((candidates[:, :background], candidates[:, background + 1 :]), dim=1)
        rows = matrix.T[leaders - (leaders > background).long()].masked_fill(~tags, 0.0)
        most = rows.amax(1, keepdim=True).masked_fill(~tags.any(1, keepdim=True), 1.0)
        prior = torch.cat((rows[:, :background], most, rows[:, background:]), dim=1)
        prior = prior.masked_fill(~candidates, 0.0)
    return prior / prior.sum(1, keepdim=True).clamp_min(torch.finfo(prior.dtype).tiny)
