"""From rows of counts to gains: pooled with an interval, and image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmend.diagnose.result import Score
from segmend.metrics import class_score, iou, pooled_iou_difference

Counts = NDArray[np.int64]
"""[tp, fp, fn] of each class: (..., C, 3)."""


@dataclass(frozen=True)
class Gain:
    """Pooled gain with its interval, and the gain on each image (N,)."""

    pooled: float
    low: float
    high: float
    images: NDArray[np.float64]


def score_of(counts: Counts) -> NDArray[np.float64]:
    """IoU of the foreground (two classes) or mean IoU of the present classes; NaN without any."""
    found: NDArray[np.float64] = class_score(iou(torch.from_numpy(counts))).numpy()
    return found


def pooled_score(counts: Counts) -> float:
    """The score of counts (N, C, 3) added over images; nothing to find, nothing found: 1."""
    return float(np.nan_to_num(score_of(counts.sum(0)), nan=1.0))


def base_score(counts: Counts, *, num_resamples: int, seed: int) -> Score:
    """The base's score with its bootstrap interval over images."""
    nothing = np.zeros_like(counts)
    nothing[..., 1] = 1  # an IoU of 0 in every class, so that the difference is the score
    found = pooled_iou_difference(
        _tensor(nothing), _tensor(counts), num_resamples=num_resamples, seed=seed
    )
    per_image = score_of(counts)
    scored = per_image[~np.isnan(per_image)]
    mean = float(scored.mean()) if len(scored) else float("nan")
    return Score(pooled_score(counts), _or(found.low, 1.0), _or(found.high, 1.0), mean)


def gain_of(base: Counts, mended: Counts, *, num_resamples: int, seed: int) -> Gain:
    """What `mended` gains over `base`, both (N, C, 3).

    An image with nothing to find and nothing found counts as 1 here, so that false alarms taken
    from an empty image are a gain.
    """
    images = per_image_gain(base, mended)
    pooled = pooled_score(mended) - pooled_score(base)
    if np.array_equal(base, mended):
        return Gain(0.0, 0.0, 0.0, images)
    found = pooled_iou_difference(
        _tensor(base), _tensor(mended), num_resamples=num_resamples, seed=seed
    )
    return Gain(pooled, _or(found.low, pooled), _or(found.high, pooled), images)


def per_image_gain(base: Counts, mended: Counts) -> NDArray[np.float64]:
    before, after = (np.nan_to_num(score_of(counts), nan=1.0) for counts in (base, mended))
    return after - before


def binary_counts(tp: Counts, fp: Counts, positives: Counts, pixels: Counts) -> Counts:
    """(..., 2, 3) of background and foreground, from the foreground's and the totals (...)."""
    fn = positives - tp
    rest = np.stack((pixels - positives - fp, fn, fp), axis=-1)
    return np.stack((rest, np.stack((tp, fp, fn), axis=-1)), axis=-2)


def balanced(base: Counts, mended: Counts) -> Counts:
    """Pooled counts (1, C, 3) once only as many errors are mended as err to the other side, too.

    Of the pixels that a fix sets right, a class has lost some and wrongly won others; noise
    without a direction does both alike. The excess of one over the other is the systematic part,
    and the rest is what a fix of this kind would find in noise.
    """
    before: Counts = base.sum(0)
    after: Counts = mended.sum(0)
    removed = before[:, 1:] - after[:, 1:]
    both = removed.min(1)
    counts: Counts = before.copy()
    counts[:, 0] += both
    counts[:, 1:] -= both[:, None]
    return counts[None]


def _tensor(counts: Counts) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(counts, dtype=np.int64))


def _or(value: float, default: float) -> float:
    return default if np.isnan(value) else value
