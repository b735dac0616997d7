"""Lesion by lesion: connected components of a target that were found, missed or made up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segmend.errors import SegmendError


class LesionCounts(NamedTuple):
    """found, missed: components of the target that the prediction touches, or does not.
    made_up: components of the prediction that touch no target."""

    found: int
    missed: int
    made_up: int


def lesion_counts(prediction: Tensor, target: Tensor, *, min_overlap: float = 0.0) -> LesionCounts:
    """Count lesions found, missed and made up.

    Args:
        prediction, target: bool or 0/1, both (H, W) or both (H, W, D). Voxels that touch by a
            corner are of one component.
        min_overlap: a lesion counts as found where more than this share of it is predicted; 0
            asks for one voxel.
    Raises:
        SegmendError: shapes differ, `min_overlap` outside [0, 1).
    Source:
        The counting of the lesion-wise F1 of ISLES 2022 (Hernandez Petzsche et al., Scientific
        Data 9 (2022) 762), one voxel of overlap.
    """
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise SegmendError(
            "prediction, target: want one shape (H, W) or (H, W, D), got "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    if not 0 <= min_overlap < 1:
        raise SegmendError(f"min_overlap: want a share in [0, 1), got {min_overlap}")
    found, wanted = prediction.bool().cpu().numpy(), target.bool().cpu().numpy()
    corners = np.ones((3,) * target.ndim)
    lesions, num_lesions = ndimage.label(wanted, corners)
    stains, num_stains = ndimage.label(found, corners)
    sizes = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]
    covered = np.bincount(lesions[found], minlength=num_lesions + 1)[1:]
    hit = int((covered > min_overlap * sizes).sum())
    true_stains = len(np.unique(stains[wanted & found]))
    return LesionCounts(hit, num_lesions - hit, num_stains - true_stains)


def lesion_f1(counts: Tensor) -> Tensor:
    """F1 of lesions, 2 found / (2 found + missed + made up).

    Args:
        counts: (..., 3): [found, missed, made up]; sums of counts are counts.
    Returns:
        (...), float64 in [0, 1]; NaN where there is no lesion and none is predicted.
    """
    found, missed, made_up = counts.double().unbind(-1)
    total = 2 * found + missed + made_up
    return torch.where(total > 0, 2 * found / total, torch.nan)
