"""Score a folder of predictions against a folder of masks, in memory that does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from segmend.data.folders import Match, match_folders
from segmend.data.masks import read_mask
from segmend.engine.evaluation_tally import EvaluationOptions, Kind, MetricName, Scored, Tally
from segmend.engine.progress import track
from segmend.errors import SegmendError
from segmend.metrics import (
    Interval,
    boundary_f,
    boundary_f_difference,
    class_score,
    dice,
    iou,
    mean_iou_difference,
    pooled_iou_difference,
)

__all__ = ["LEGEND", "TITLES", "Evaluation", "EvaluationOptions", "evaluate_folder"]

OF_LABELS: tuple[MetricName, ...] = ("region", "contour")
OF_BINARY_PROBS: tuple[MetricName, ...] = ("mae", "fmeasure", "calibration", "threshold")

TITLES: dict[str, tuple[str, str]] = {
    "pooled_iou": ("foreground IoU, pooled", "mIoU (pooled per class)"),
    "per_image_iou": ("foreground IoU, per image", "mIoU, per image"),
    "pooled_dice": ("foreground Dice, pooled", "mean Dice (pooled per class)"),
    "pooled_boundary_f": ("boundary F, pooled", "mean boundary F (pooled per class)"),
    "per_image_boundary_f": ("boundary F, per image", "mean boundary F, per image"),
    "mae": ("mean absolute error, per image",) * 2,
    "max_f": ("F-measure, maximal",) * 2,
    "mean_f": ("F-measure, mean over thresholds",) * 2,
    "adaptive_f": ("F-measure, adaptive threshold",) * 2,
    "calibration_error": ("calibration error, pooled",) * 2,
    "best_threshold": ("best threshold on these masks",) * 2,
    "best_threshold_iou": ("IoU at best threshold, pooled",) * 2,
    "num_scored_iou": ("images that have an IoU",) * 2,
}
"""What each figure is, for two classes and for more."""

LEGEND = (
    "pooled: counts added over all images, then one ratio. "
    "per image: each image's own score, then their mean; "
    "images with nothing to find and nothing found have none. difference: pred - against."
)
"""Which average is which; belongs under every table of these figures."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of `pred`, of `against` if there is one, and `pred - against` with intervals."""

    names: tuple[str, ...]
    num_classes: int
    pred: Scored
    against: Scored | None = None
    differences: dict[str, Interval] = field(default_factory=dict)

    def title(self, name: str) -> str:
        """What the figure of this name is."""
        return TITLES[name][self.num_classes > 2]

    def summary(self) -> dict[str, object]:
        """Everything but the images, as numbers, texts, lists and dicts; None for no figure."""
        sides = {"pred": self.pred, "against": self.against}
        return {
            "num_images": len(self.names),
            "num_classes": self.num_classes,
            "averages": LEGEND,
            "figures": {name: self.title(name) for name in self.pred.scores},
            "scores": {k: _side(scored) for k, scored in sides.items() if scored is not None},
            "differences": {
                name: {k: _finite(v) for k, v in asdict(interval).items()}
                for name, interval in self.differences.items()
            },
        }

    def rows(self) -> Iterator[dict[str, object]]:
        """One row an image: its name, scores and counts; None for no score."""
        columns = {"": _columns(self.pred)}
        if self.against is not None:
            columns["_against"] = _columns(self.against)
        for index, name in enumerate(self.names):
            row: dict[str, object] = {"name": name}
            for suffix, values in columns.items():
                row |= {key + suffix: _finite(value[index]) for key, value in values.items()}
            yield row


def evaluate_folder(
    predictions: Path,
    masks: Path,
    *,
    kind: Kind,
    against: Path | None = None,
    options: EvaluationOptions | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score every prediction of a folder, image by image.

    Keeps a few integers an image, never an image: thousands of images need no more memory than
    one, and the paired intervals are computed from those integers.

    Args:
        predictions, against: folders of hard masks (`kind="pred"`) or of probability maps
            (`kind="probs"`; one channel, or background and foreground, if binary; else one
            channel a class, of which the largest wins), matched with `masks` by name.
        masks: folder of target masks.
    Raises:
        SegmendError: a partner is missing, sizes differ, a file cannot be read, a label or a
            probability is out of range (files named); or a metric that this input cannot have.
    """
    options = options or EvaluationOptions()
    metrics = _metrics(options, kind)
    matches = _match(masks, predictions, kind, options)
    rivals = matches if against is None else _match(masks, against, kind, options)
    chosen = [mask for mask in matches if mask in rivals]
    if not chosen:
        raise SegmendError(f"{predictions}, {against}: no mask in {masks} has a partner in both")
    ours, theirs = (Tally(options, metrics, kind, num_images=len(chosen)) for _ in range(2))
    for mask in track(chosen, description="evaluating", total=len(chosen), enabled=progress):
        target = _read_target(mask, options)
        ours.add(matches[mask].paths[kind], mask, target)
        if against is not None:
            theirs.add(rivals[mask].paths[kind], mask, target)
    names = tuple(matches[mask].name for mask in chosen)
    pred = ours.scored(predictions)
    if against is None:
        return Evaluation(names, options.num_classes, pred)
    other = theirs.scored(against)
    differences = _differences(other, pred, options)
    return Evaluation(names, options.num_classes, pred, other, differences)


def _read_target(mask: Path, options: EvaluationOptions) -> Tensor:
    """int64 (1, H, W)."""
    target = read_mask(
        mask,
        num_classes=options.num_classes,
        ignore_index=options.ignore_index,
        encoding=options.encoding,
    )
    return target[None]


def _metrics(options: EvaluationOptions, kind: Kind) -> tuple[MetricName, ...]:
    """What to measure; refuses what this input cannot have."""
    possible = OF_LABELS
    if kind == "probs":
        possible += OF_BINARY_PROBS if options.num_classes == 2 else ("calibration",)
    if options.metrics is None:
        return possible
    for name in options.metrics:
        if name not in possible:
            need = "probability maps (--probs)" if kind == "pred" else "two classes"
            raise SegmendError(f"metrics: {name} needs {need}; here: {', '.join(possible)}")
    return options.metrics


def _match(
    masks: Path, predictions: Path, kind: Kind, options: EvaluationOptions
) -> dict[Path, Match]:
    """By mask, because a pair's name may differ with the naming of the predictions."""
    matches = match_folders({"masks": masks, kind: predictions}, partial=options.partial)
    return {match.paths["masks"]: match for match in matches}


def _differences(base: Scored, other: Scored, options: EvaluationOptions) -> dict[str, Interval]:
    num_resamples, level, seed = options.num_resamples, options.level, options.seed
    measures = {
        "pooled_iou": (pooled_iou_difference, base.region, other.region),
        "per_image_iou": (mean_iou_difference, base.region, other.region),
    }
    if base.contour is not None and other.contour is not None:
        measures["per_image_boundary_f"] = (boundary_f_difference, base.contour, other.contour)
    return {
        name: difference(theirs, ours, num_resamples=num_resamples, level=level, seed=seed)
        for name, (difference, theirs, ours) in measures.items()
    }


def _side(scored: Scored) -> dict[str, object]:
    figures: dict[str, object] = {name: _finite(v) for name, v in scored.scores.items()}
    figures["class_iou"] = [_finite(v) for v in scored.class_iou.tolist()]
    return {"folder": str(scored.folder), **figures}


def _columns(scored: Scored) -> dict[str, list[float]]:
    """Per-image columns; the binary table has the foreground's counts, others an IoU a class."""
    classes = iou(scored.region)
    columns = {
        "iou": class_score(classes).tolist(),
        "dice": class_score(dice(scored.region)).tolist(),
    }
    if scored.contour is not None:
        columns["boundary_f"] = class_score(boundary_f(scored.contour)).tolist()
    if classes.shape[1] == 2:
        for key, values in zip(("tp", "fp", "fn"), scored.region[:, 1].T.tolist(), strict=True):
            columns[key] = values
    else:
        for index, values in enumerate(classes.T.tolist()):
            columns[f"iou_{index}"] = values
    return columns


def _finite(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
