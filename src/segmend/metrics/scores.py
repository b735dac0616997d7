"""From counts to the figures in a table: pooled over the set, or per image and then averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


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


def class_score(values: Tensor) -> Tensor:
    """(..., C) scores of the classes to one (...): class 1 if C is 2, else the mean of the present.

    An absent class is NaN and takes no part; where all are absent the result is NaN.
    """
    return values[..., 1] if values.shape[-1] == 2 else values.nanmean(-1)


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
