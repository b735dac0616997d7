"""Paired bootstrap: is one prediction better than another, beyond the luck of the images drawn?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.metrics.contour import boundary_f
from segmend.metrics.region import iou
from segmend.metrics.scores import class_score

Statistic = Callable[[Tensor], Tensor]
"""Maps weighted sums over images, float64 (..., K), to numbers (...)."""

_CHUNK_CELLS = 400_000  # image draws held at a time: about 15 MB


@dataclass(frozen=True)
class Interval:
    """`other - base` with the limits of its percentile bootstrap interval.

    base, other, difference: the statistic on all images (mean over seeds, where there are
    seeds). low, high: limits at `level`; an interval above 0 says that `other` is better.
    """

    difference: float
    low: float
    high: float
    level: float
    base: float
    other: float
    num_images: int
    num_seeds: int
    num_resamples: int


def paired_bootstrap(
    base: Tensor,
    other: Tensor,
    *,
    statistic: Statistic,
    num_resamples: int = 2000,
    level: float = 0.95,
    resample_seeds: bool = False,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of `statistic(other) - statistic(base)` over images.

    The same images are drawn for both, so what makes an image hard cancels. A resample is a
    vector of how often each image was drawn; all of them times the rows of counts is one matrix
    product.

    Args:
        base, other: one row of numbers an image, (N, K); or (S, N, K), the same N images under S
            seeds: images are drawn jointly for all seeds and the statistic is averaged over seeds.
        statistic: from sums of rows, (..., K), to numbers (...); a ratio of sums, for instance.
        num_resamples: 2000 settles the limits to about 5% of the interval's width.
        level: coverage asked for.
        resample_seeds: draw the S seeds with replacement as well, so that the interval covers
            new seeds too; with 3 seeds this is rough.
        seed: of the resampling.
    Raises:
        SegmendError: shapes differ, no images, or an option out of range.
    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    """
    _check(base, other, num_resamples, level)
    rows = torch.stack([x.double().view(-1, *x.shape[-2:]) for x in (base, other)])
    num_seeds, num_images = rows.shape[1:3]
    seeds = torch.ones(1, num_seeds, dtype=torch.float64)
    whole = _mean_over_seeds(statistic(rows.sum(2))[:, None], seeds)[:, 0]
    generator = torch.Generator().manual_seed(seed)
    differences = []
    step = max(1, _CHUNK_CELLS // num_images)
    for start in range(0, num_resamples, step):
        count = min(step, num_resamples - start)
        values = statistic(_resampled_sums(rows, _draw(count, num_images, generator)))
        weights = _draw(count, num_seeds, generator) if resample_seeds else seeds
        pair = _mean_over_seeds(values, weights)
        differences.append(pair[1] - pair[0])
    tail = (1 - level) / 2
    limits = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.cat(differences).nanquantile(limits).tolist()
    return Interval(
        difference=float(whole[1] - whole[0]),
        low=low,
        high=high,
        level=level,
        base=float(whole[0]),
        other=float(whole[1]),
        num_images=num_images,
        num_seeds=num_seeds,
        num_resamples=num_resamples,
    )


def pooled_iou_difference(
    base_counts: Tensor,
    other_counts: Tensor,
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    resample_seeds: bool = False,
    seed: int = 0,
) -> Interval:
    """Interval of the difference in pooled IoU (foreground, or mIoU for many classes).

    Args:
        base_counts, other_counts: from `region_counts`, (N, C, 3) or, with seeds, (S, N, C, 3).
        The rest: see `paired_bootstrap`.
    """
    num_classes = base_counts.shape[-2] if base_counts.ndim >= 2 else 0

    def statistic(sums: Tensor) -> Tensor:
        return class_score(iou(sums.view(*sums.shape[:-1], num_classes, 3)))

    return paired_bootstrap(
        _rows(base_counts, 3),
        _rows(other_counts, 3),
        statistic=statistic,
        num_resamples=num_resamples,
        level=level,
        resample_seeds=resample_seeds,
        seed=seed,
    )


def mean_iou_difference(
    base_counts: Tensor,
    other_counts: Tensor,
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    resample_seeds: bool = False,
    seed: int = 0,
) -> Interval:
    """Interval of the difference in per-image IoU, averaged over images.

    Each mean is over the images that the prediction has a score on (see `ClassScores`), as in the
    tables. Arguments as in `pooled_iou_difference`.
    """
    return paired_bootstrap(
        _value_and_presence(class_score(iou(_shaped(base_counts, 3)))),
        _value_and_presence(class_score(iou(_shaped(other_counts, 3)))),
        statistic=_ratio,
        num_resamples=num_resamples,
        level=level,
        resample_seeds=resample_seeds,
        seed=seed,
    )


def boundary_f_difference(
    base_counts: Tensor,
    other_counts: Tensor,
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    resample_seeds: bool = False,
    seed: int = 0,
) -> Interval:
    """Interval of the difference in per-image boundary F, averaged over images.

    Args:
        base_counts, other_counts: from `boundary_counts`, (N, C, 4) or, with seeds, (S, N, C, 4).
        The rest: see `paired_bootstrap`.
    """
    return paired_bootstrap(
        _value_and_presence(class_score(boundary_f(_shaped(base_counts, 4)))),
        _value_and_presence(class_score(boundary_f(_shaped(other_counts, 4)))),
        statistic=_ratio,
        num_resamples=num_resamples,
        level=level,
        resample_seeds=resample_seeds,
        seed=seed,
    )


def _draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    """How often each of `size` things is drawn in `count` resamples: float64 (count, size)."""
    index = torch.randint(size, (count, size), generator=generator)
    index += size * torch.arange(count)[:, None]
    return torch.bincount(index.flatten(), minlength=count * size).view(count, size).double()


def _resampled_sums(rows: Tensor, weights: Tensor) -> Tensor:
    """(2, R, S, K) from rows (2, S, N, K) and weights (R, N)."""
    pair, num_seeds, num_images, width = rows.shape
    flat = rows.permute(2, 0, 1, 3).reshape(num_images, -1)
    return (weights @ flat).view(-1, pair, num_seeds, width).transpose(0, 1)


def _mean_over_seeds(values: Tensor, weights: Tensor) -> Tensor:
    """(2, R) from values (2, R, S) and weights (R or 1, S)."""
    return (values * weights).sum(-1) / weights.sum(-1)


def _value_and_presence(values: Tensor) -> Tensor:
    """(..., 2): the value, 0 for NaN, and whether there is one; a mean is then a ratio of sums."""
    return torch.stack((values.nan_to_num(nan=0.0), (~values.isnan()).double()), dim=-1)


def _ratio(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


def _shaped(counts: Tensor, width: int) -> Tensor:
    if counts.ndim not in (3, 4) or counts.shape[-1] != width:
        raise SegmendError(
            f"counts: want (N, C, {width}) or (S, N, C, {width}), got {tuple(counts.shape)}"
        )
    return counts


def _rows(counts: Tensor, width: int) -> Tensor:
    return _shaped(counts, width).flatten(-2)


def _check(base: Tensor, other: Tensor, num_resamples: int, level: float) -> None:
    if base.shape != other.shape or base.ndim not in (2, 3) or base.numel() == 0:
        raise SegmendError(
            "base and other: want one row an image for the same images, (N, K) or (S, N, K), "
            f"got {tuple(base.shape)} and {tuple(other.shape)}"
        )
    if num_resamples < 1:
        raise SegmendError(f"num_resamples: want at least 1, got {num_resamples}")
    if not 0 < level < 1:
        raise SegmendError(f"level: want a number between 0 and 1, got {level}")
