"""How well a classifier finds an image's tags: average precision of each class, and its mean."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision

from segmend.errors import SegmendError


class TagPrecision(NamedTuple):
    """Average precision, float64 in [0, 1].

    mean: over the classes that some image has (mAP). per_class: (C,), NaN for the others.
    """

    mean: Tensor
    per_class: Tensor


def tag_average_precision(scores: Tensor, tags: Tensor) -> TagPrecision:
    """Average precision of ranking the images by each class's score.

    The area under the steps of precision over recall, not interpolated (neither the 11 points of
    VOC 2007 nor its envelope); images of equal score are one step. Computed by torchmetrics on
    the ranks of the scores, so that logits and probabilities give the same figure.

    Args:
        scores: float (N, C), any monotone score, finite.
        tags: {0, 1}, any type (N, C).
    Raises:
        SegmendError: shapes differ, a score that is not finite, a tag that is neither 0 nor 1.
    """
    if scores.ndim != 2 or tags.shape != scores.shape or not scores.is_floating_point():
        raise SegmendError(
            "scores, tags: want (N, C) both, scores float; got "
            f"{scores.dtype} {tuple(scores.shape)}, {tags.dtype} {tuple(tags.shape)}"
        )
    if not bool(scores.isfinite().all()):
        raise SegmendError("scores: want finite numbers, found NaN or infinity")
    if bool(((tags != 0) & (tags != 1)).any()):
        raise SegmendError("tags: want 0 or 1 only")
    values = [_average_precision(*pair) for pair in zip(scores.T, tags.T, strict=True)]
    per_class = torch.stack(values) if values else scores.new_zeros(0).double()
    return TagPrecision(per_class.nanmean(), per_class)


class TagAveragePrecision(Metric):
    """`TagPrecision` of a stream of batches; keeps all scores and tags, 2 C numbers an image.

    `update(scores, tags)` as in `tag_average_precision`.
    """

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    tags: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("tags", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, tags: Tensor) -> None:
        """Add a batch, (N, C) both."""
        self.scores.append(scores.detach())
        self.tags.append(tags.detach())

    def compute(self) -> TagPrecision:
        """The precision over all that was seen.

        Raises:
            SegmendError: nothing was seen, or as in `tag_average_precision`.
        """
        if not len(self.scores):
            raise SegmendError("no batch was added; call update(scores, tags) first")
        # torchmetrics leaves a tensor, not a list, after it has gathered from workers
        joined = (x if isinstance(x, Tensor) else torch.cat(x) for x in (self.scores, self.tags))
        return tag_average_precision(*joined)


def _average_precision(scores: Tensor, tags: Tensor) -> Tensor:
    if not bool(tags.any()):
        return torch.tensor(torch.nan, dtype=torch.float64, device=scores.device)
    # ranks in [0, 1]: torchmetrics would put other numbers through a float32 sigmoid, whose ties
    # change the figure
    values, rank = torch.unique(scores, return_inverse=True)
    score: Tensor = binary_average_precision(rank.double() / len(values), tags.long())
    return score.double()
