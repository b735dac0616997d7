"""Boundary F: does the outline run where it should, within a tolerance?"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.metrics.checks import check_labels
from segmend.metrics.outlines import count_outlines
from segmend.metrics.scores import CountedScore

Void = Literal["ignore", "background"]


def boundary_counts(
    prediction: Tensor,
    target: Tensor,
    *,
    num_classes: int = 2,
    tolerance: float = 0.008,
    ignore_index: int = 255,
    void: Void = "ignore",
) -> Tensor:
    """Boundary pixels of each class in each image, and how many of them find a partner.

    A pixel is on the boundary of a class if its right, lower or lower-right neighbour is on the
    other side (in or out of the class); the edge of the image is no boundary. A boundary pixel is
    matched if the other mask's boundary has a pixel within ceil(tolerance * diagonal) pixels
    (Euclidean, the disk of DAVIS). Two pixels of which one is ignored are not compared, so an
    ignored region makes no boundary. (Where a data set ignores every outline, as VOC does, little
    is left to measure.) In a binary problem both classes share their boundary.

    Args:
        prediction: labels in [0, num_classes); integer or bool (N, H, W).
        target: labels in [0, num_classes) or `ignore_index`; integer or bool (N, H, W).
        num_classes: background included.
        tolerance: fraction of the image diagonal; 0.008 is the default of DAVIS.
        ignore_index: pixels of this target label are void.
        void: "ignore" as said above; "background" makes them label 0 of the target, as the
            published code of HFPL does (and DAVIS, which has none): the outline of a void ring
            is then a contour, and what is predicted inside the ring counts.
    Returns:
        int64 (N, num_classes, 4): [matched predicted, predicted, matched target, target].
    Raises:
        SegmendError: as `region_counts`; a tolerance below 0; an unknown `void`.
    Source:
        Perazzi et al., CVPR 2016 (DAVIS), section 4, and the boundary map of its toolkit, which
        this equals where nothing is ignored. Counts added over a set, then
        `class_mean(boundary_f(counts), background=0)`, is the protocol of HFPL (hfpl at 1038a68);
        images without a class count with the false contours in them.
    """
    if not 0 <= tolerance < math.inf:
        raise SegmendError(f"tolerance: want a fraction of the diagonal >= 0, got {tolerance}")
    if void not in ("ignore", "background"):
        raise SegmendError(f"void: want 'ignore' or 'background', got {void!r}")
    if void == "background" and not target.is_floating_point():
        stored = target.cpu().numpy()  # as what follows is NumPy's work, too
        kept = stored * (stored != ignore_index)
        target = torch.from_numpy(kept).to(target.device)
        ignore_index = torch.iinfo(torch.int64).min  # no pixel is ignored any more
    labels = check_labels(prediction, target, num_classes=num_classes, ignore_index=ignore_index)
    radius = math.ceil(tolerance * math.hypot(*target.shape[-2:]))
    arrays = [part.cpu().numpy() for part in labels]
    rows = [
        count_outlines(*image, num_classes=num_classes, radius=radius)
        for image in zip(*arrays, strict=True)
    ]
    counts = np.stack(rows) if rows else np.zeros((0, num_classes, 4), dtype=np.int64)
    return torch.from_numpy(counts).to(target.device)


def boundary_f(counts: Tensor) -> Tensor:
    """Harmonic mean of boundary precision and recall from `boundary_counts` (or sums of them).

    Args:
        counts: (..., 4), [matched predicted, predicted, matched target, target].
    Returns:
        (...), float64 in [0, 1]: NaN where neither mask has a boundary (DAVIS says 1 there; we
        leave such images out), 0 where only one has.
    """
    matched_pred, pred, matched_target, target = counts.double().unbind(-1)
    # 2 P R / (P + R) with P = matched_pred / pred and R = matched_target / target, cleared
    below = matched_pred * target + matched_target * pred
    score = 2 * matched_pred * matched_target / below.where(below > 0, 1.0)
    return torch.where(pred + target > 0, score, torch.nan)


class BoundaryF(CountedScore):
    """Boundary F of a stream of batches, pooled and per image; see `ClassScores`.

    `update(prediction, target)` and the arguments as in `boundary_counts`; `compute` gives
    `ClassScores`. The per-image mean is the convention of DAVIS; `class_mean(scores.per_class,
    background=0)` is that of HFPL.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        tolerance: float = 0.008,
        ignore_index: int = 255,
        void: Void = "ignore",
    ) -> None:
        count = partial(
            boundary_counts,
            num_classes=num_classes,
            tolerance=tolerance,
            ignore_index=ignore_index,
            void=void,
        )
        super().__init__(count, boundary_f, shape=(num_classes, 4))
