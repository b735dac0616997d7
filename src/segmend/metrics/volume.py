"""Scores of volumes case by case: overlap, surfaces in millimetres, false positives, lesions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError
from segmend.metrics.lesions import lesion_counts, lesion_f1

FIELDS = (
    "dice", "precision", "sensitivity", "hd95", "surface_dice", "false_positive_volume",
    "false_positives", "lesion_f1",
)  # fmt: skip


class VolumeScores(NamedTuple):
    """One case's scores, or their means over cases; NaN where a score does not exist.

    dice, precision, sensitivity, surface_dice, lesion_f1: in [0, 1]. hd95: mm.
    false_positive_volume: mm³ (mm² in 2D) predicted outside the target. false_positives: made-up
    components.
    """

    dice: float
    precision: float
    sensitivity: float
    hd95: float
    surface_dice: float
    false_positive_volume: float
    false_positives: float
    lesion_f1: float


def volume_scores(
    prediction: Tensor,
    target: Tensor,
    *,
    spacing: Sequence[float] | Tensor | None = None,
    valid: Tensor | None = None,
    tolerance: float = 1.0,
    surfaces: bool = True,
) -> VolumeScores:
    """All scores of one case.

    Nothing to find and nothing found: everything but the two false-positive figures (0) is NaN, so
    that the case drops out of means. Nothing to find but something found: Dice, precision and
    surface Dice 0, sensitivity NaN. Something to find and nothing found: Dice, precision (as in
    CoLab's scorer), sensitivity and surface Dice 0. In both, HD95 is the diagonal of the volume, so
    that a miss is not rewarded by dropping out.

    Args:
        prediction, target: bool or 0/1, both (H, W) or both (H, W, D).
        spacing: mm along each axis; None is 1.
        valid: bool of the same shape; other voxels count as predicted and true background.
        tolerance: of the surface Dice, mm.
        surfaces: False leaves HD95 and surface Dice out (NaN), which take most of the time.
    Raises:
        SegmendError: shapes differ; a spacing or tolerance that is not above 0; MONAI is missing.
    Source:
        HD95 (larger of the two directed 95th percentiles) and surface Dice as MONAI computes them.
    """
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise SegmendError(
            "prediction, target: want one shape (H, W) or (H, W, D), got "
            f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    step = _spacing(spacing, target.ndim)
    if not tolerance > 0:
        raise SegmendError(f"tolerance: want mm above 0, got {tolerance}")
    found, wanted = prediction.bool(), target.bool()
    if valid is not None:
        found, wanted = found & valid, wanted & valid
    tp = int((found & wanted).sum())
    fp, fn = int(found.sum()) - tp, int(wanted.sum()) - tp
    lesions = lesion_counts(found, wanted)
    there, seen = tp + fn > 0, tp + fp > 0
    hd95, surface = _surfaces(found, wanted, step, tolerance) if surfaces else (torch.nan,) * 2
    cell = 1.0
    for s in step:
        cell *= s
    return VolumeScores(
        dice=2 * tp / (2 * tp + fp + fn) if there or seen else torch.nan,
        precision=tp / max(tp + fp, 1) if there or seen else torch.nan,
        sensitivity=tp / (tp + fn) if there else torch.nan,
        hd95=hd95,
        surface_dice=surface,
        false_positive_volume=fp * cell,
        false_positives=float(lesions.made_up),
        lesion_f1=float(lesion_f1(torch.tensor(lesions))),
    )


class VolumeScore(Metric):
    """Mean `VolumeScores` of a stream of cases; memory grows by eight numbers a case.

    `update(prediction, target, spacing)` takes one case, `compute` gives the means over the cases
    that have a score; `rows` (N, 8) keeps each case's own for intervals. Arguments as in
    `volume_scores`.
    """

    full_state_update = False
    table: list[Tensor]

    def __init__(self, *, tolerance: float = 1.0, surfaces: bool = True) -> None:
        super().__init__()
        self.tolerance, self.surfaces = tolerance, surfaces
        self.add_state("table", [], dist_reduce_fx="cat")

    def update(
        self, prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor | None = None
    ) -> None:
        scores = volume_scores(
            prediction,
            target,
            spacing=spacing,
            tolerance=self.tolerance,
            surfaces=self.surfaces,
        )
        self.table.append(torch.tensor([scores], dtype=torch.float64, device=self.device))

    @property
    def rows(self) -> Tensor:
        """float64 (N, 8), one row a case in the order of `FIELDS`."""
        if isinstance(self.table, Tensor):  # what torchmetrics leaves after merging workers
            return self.table
        return torch.cat(self.table) if self.table else torch.zeros(0, len(FIELDS)).double()

    def compute(self) -> VolumeScores:
        return VolumeScores(*self.rows.nanmean(0).tolist())


def _surfaces(
    found: Tensor, wanted: Tensor, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float]:
    """(HD95 in mm, surface Dice)."""
    if not found.any() and not wanted.any():
        return torch.nan, torch.nan
    if not found.any() or not wanted.any():
        sides = [n * s for n, s in zip(found.shape, spacing, strict=True)]
        return float(torch.tensor(sides).norm()), 0.0
    metrics = _monai()
    pair = tuple(x[None, None].float().cpu() for x in (found, wanted))
    step = list(spacing)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"monai\..*")  # its own
        hd95 = metrics.compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=step
        )
        surface = metrics.compute_surface_dice(
            *pair, [tolerance], include_background=True, spacing=step
        )
    return float(hd95), float(surface)


def _spacing(spacing: Sequence[float] | Tensor | None, dimensions: int) -> tuple[float, ...]:
    steps = (1.0,) * dimensions if spacing is None else tuple(float(s) for s in spacing)
    if len(steps) != dimensions or not all(0 < s < float("inf") for s in steps):
        raise SegmendError(f"spacing: want {dimensions} numbers above 0, in mm, got {steps}")
    return steps


def has_surfaces() -> bool:
    """Whether HD95 and surface Dice can be computed here: they want MONAI, an optional part."""
    return find_spec("monai") is not None


def _monai() -> Any:
    try:
        import monai.metrics
    except ImportError as error:
        raise SegmendError(
            "HD95 and surface Dice want MONAI, which is not installed: pip install "
            "'segmend[medical]'; or leave them out with surfaces=False"
        ) from error
    return monai.metrics
