"""Fixes among many classes: candidates, and the view of a map as background against the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segmend.diagnose.frame import Array, Frame
from segmend.diagnose.scoring import Counts


def candidates_of_truth(frame: Frame) -> NDArray[np.bool_]:
    """bool (C,): the classes that the truth shows, and the background."""
    found: NDArray[np.bool_] = frame.confusion.sum(1) > 0
    found[0] = True
    return found


def ruled_out(frame: Frame, probs: Tensor, candidates: Array) -> Counts:
    """Counts (C, 3) once each pixel of a class that is no candidate takes its best candidate.

    Exact: a candidate class is all that changes, and the pixel's own probabilities choose it.

    Args:
        probs: (C, H, W[, D]). candidates: bool (C,), at least one True.
    """
    out = ~candidates[frame.prediction]
    if frame.valid is not None:
        out &= frame.valid
    at = np.flatnonzero(out)
    allowed = np.flatnonzero(candidates)
    scores = probs.numpy().reshape(len(probs), -1)[allowed][:, at]
    return frame.relabelled(at, allowed[scores.argmax(0)])


def against_background(frame: Frame, probs: Tensor) -> tuple[Array, Array]:
    """Each pixel's best class other than the background, and its share against background's.

    Returns:
        float32 scores in [0, 1], p / (p + background's p), of which above 0.5 is what `argmax`
        predicts; labels (the predicted one wherever a class but the background is predicted). For
        a binary map the map itself, and 1 everywhere.
    """
    if len(probs) == 1:
        return probs[0].numpy(), np.ones_like(frame.prediction)
    best, leader = probs[1:].max(0)
    behind = probs[0].numpy()
    top = best.numpy()
    with np.errstate(invalid="ignore"):
        scores = np.where(top + behind > 0, top / (top + behind), np.float32(0.5))
    labels = (leader.numpy() + 1).astype(frame.prediction.dtype)
    return scores, np.where(frame.prediction != 0, frame.prediction, labels)


def confused(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    base: Counts,
    members: list[tuple[int, int]],
) -> Counts:
    """Counts (N, C, 3) once every pixel of these (true, predicted) pairs is set right.

    Args:
        pairs: for each image the flat positions in its confusion matrix, and the pixels there.
        base: (N, C, 3) as they are.
    """
    num_classes = base.shape[1]
    chosen = np.zeros(num_classes * num_classes, dtype=bool)
    for truth, predicted in members:
        chosen[truth * num_classes + predicted] = True
    mended: Counts = base.copy()
    for row, (at, pixels) in zip(mended, pairs, strict=True):
        moved = chosen[at]
        mine, called = np.divmod(at[moved], num_classes)
        np.add.at(row[:, 0], mine, pixels[moved])
        np.add.at(row[:, 1], called, -pixels[moved])
        np.add.at(row[:, 2], mine, -pixels[moved])
    return mended
