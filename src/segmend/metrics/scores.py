"""From counts to the figures in a table: pooled over the set, or per image and then averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError

Absent = Literal["skip", "zero", "one"]


class ClassScores(NamedTuple):
    """One measure over a set of images, both ways of averaging.

    pooled: counts added over all images, then one ratio. Binary: of the foreground (class 1).
        Many classes: mean over the classes present anywhere (for IoU this is the usual mIoU).
    per_image: each image's own score, then the mean over the scored images.
    per_class: (C,), pooled; NaN for a class that is neither predicted nor in any target.
    num_images: images seen. num_scored: images whose own score exists; the others (nothing to
        find and nothing found, or all ignored) count in no per-image mean.
    """

    pooled: Tensor
    per_image: Tensor
    per_class: Tensor
    num_images: Tensor
    num_scored: Tensor


class ClassMean(NamedTuple):
    """A mean over classes, and how many of them it could be taken over.

    mean: float64; NaN where no class is present and absent ones are skipped.
    num_present: classes that are predicted somewhere or in some target.
    absent: labels of the other classes, in order.
    """

    mean: Tensor
    num_present: int
    absent: tuple[int, ...]


def class_score(values: Tensor) -> Tensor:
    """(..., C) scores of the classes to one (...): class 1 if C is 2, else the mean of the present.

    An absent class is NaN and takes no part; where all are absent the result is NaN.
    """
    return values[..., 1] if values.shape[-1] == 2 else values.nanmean(-1)


def class_mean(
    per_class: Tensor, *, background: int | None = None, absent: Absent = "skip"
) -> ClassMean:
    """The mean of scores over classes by the protocols of weakly supervised segmentation.

    mIoU by the VOC protocol is `class_mean(iou(counts))` of counts added over the whole set,
    background included; boundary F by the protocol of HFPL is
    `class_mean(boundary_f(counts), background=0)`.

    Args:
        per_class: (C,), NaN for an absent class, as `iou` and `boundary_f` give it.
        background: label of a class to leave out; None takes the mean over all.
        absent: what a class that is in no target and no prediction counts. "skip": nothing, as in
            IRN and MCTformer; "zero": 0, as the mIoU of the evaluators of AffinityNet, SEAM and
            HFPL; "one": 1, as the boundary F of HFPL. Only "skip" compares between data sets.
    Raises:
        SegmendError: `per_class` is not (C,), an unknown `absent`, no such background.
    Source:
        Everingham et al., IJCV 111 (2015); the published evaluators (hfpl at 1038a68).
    """
    filler = {"skip": torch.nan, "zero": 0.0, "one": 1.0}
    if absent not in filler:
        raise SegmendError(f"absent: want one of {', '.join(filler)}, got {absent!r}")
    if per_class.ndim != 1 or not per_class.is_floating_point():
        raise SegmendError(
            f"per_class: want float (C,), got {per_class.dtype} {tuple(per_class.shape)}"
        )
    if background is not None and not 0 <= background < len(per_class):
        raise SegmendError(f"background: want a label below {len(per_class)}, got {background}")
    taken = torch.ones(len(per_class), dtype=torch.bool, device=per_class.device)
    if background is not None:
        taken[background] = False
    missing = per_class.isnan() & taken
    filled = torch.where(missing, filler[absent], per_class.double())
    return ClassMean(
        mean=filled[taken].nanmean(),
        num_present=int((taken & ~missing).sum()),
        absent=tuple(missing.nonzero().flatten().tolist()),
    )


def summarise_classes(counts: Tensor, ratio: Callable[[Tensor], Tensor]) -> ClassScores:
    """Scores of a whole set from its rows of counts.

    Args:
        counts: integer (N, C, K), one row an image.
        ratio: maps (..., C, K) to (..., C), NaN where a class is absent; `iou`, `boundary_f`.
    """
    per_class = ratio(counts.sum(0))
    images = class_score(ratio(counts))
    scored = ~images.isnan()
    return ClassScores(
        pooled=class_score(per_class),
        per_image=images.nanmean(),
        per_class=per_class,
        num_images=torch.tensor(len(counts)),
        num_scored=scored.sum(),
    )


class CountedScore(Metric):
    """`ClassScores` of a stream of batches: the parent of metrics that are ratios of counts.

    Keeps sums only: memory does not grow with the number of images, and workers merge exactly.

    Args:
        count: (prediction, target) labels (N, H, W) -> integer counts (N, C, K).
        ratio: as in `summarise_classes`.
        shape: (C, K).
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor
    image_sum: Tensor
    num_scored: Tensor
    num_images: Tensor

    def __init__(
        self,
        count: Callable[[Tensor, Tensor], Tensor],
        ratio: Callable[[Tensor], Tensor],
        *,
        shape: tuple[int, int],
    ) -> None:
        super().__init__()
        self.count, self.ratio = count, ratio
        zero = torch.zeros((), dtype=torch.int64)
        self.add_state("counts", zero.new_zeros(shape), dist_reduce_fx="sum")
        self.add_state("image_sum", zero.double(), dist_reduce_fx="sum")
        self.add_state("num_scored", zero, dist_reduce_fx="sum")
        self.add_state("num_images", zero.clone(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: labels (N, H, W) both."""
        counts = self.count(prediction, target)
        images = class_score(self.ratio(counts))
        self.counts += counts.sum(0)
        self.image_sum += images.nansum()
        self.num_scored += (~images.isnan()).sum()
        self.num_images += len(images)

    def compute(self) -> ClassScores:
        """Scores of all that was seen; NaN where nothing could be scored."""
        per_class = self.ratio(self.counts)
        return ClassScores(
            pooled=class_score(per_class),
            per_image=self.image_sum / self.num_scored,
            per_class=per_class,
            num_images=self.num_images,
            num_scored=self.num_scored,
        )
