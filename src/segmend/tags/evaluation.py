"""How good activation maps and pseudo-masks are, where there are true masks to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.engine.progress import track
from segmend.errors import SegmendError
from segmend.metrics import (
    CamThresholdCurve,
    OutOfCandidateRate,
    TagAveragePrecision,
    boundary_counts,
    boundary_f,
    class_mean,
    iou,
    region_counts,
)
from segmend.tags.activation import Normalisation, labels_from_cams, normalise_cams
from segmend.tags.cam_files import CamFile, read_cams


@dataclass(frozen=True)
class TagScores:
    """Figures of a set; shares in [0, 1], NaN where there is nothing to measure.

    Attributes:
        names: images scored.
        region: int64 (N, K, 3) and boundary: int64 (N, K, 4), counts of each image, as
            `region_counts` and `boundary_counts` give them: what paired intervals are made of.
        mean_iou: over the classes present, background included (protocol of VOC).
        boundary_f: over the classes present, background excluded (protocol of HFPL, but that
            absent classes do not count as 1).
        per_class: IoU of each class, float64 (K,).
        out_of_candidate: share of pixels whose class is no tag of the image.
        tag_map: mean average precision of the class scores; None for masks.
        constant: background constant used; of maps the best one *on this set*, an oracle choice.
        ignored: share of predicted pixels that the masks leave open; they count as background
            (without a background: as missed).
    """

    names: list[str]
    region: Tensor
    boundary: Tensor
    mean_iou: float
    boundary_f: float
    per_class: Tensor
    out_of_candidate: float
    tag_map: float | None = None
    constant: float | None = None
    ignored: float = 0.0

    def summary(self) -> dict[str, float | int | list[float] | None]:
        """The figures alone, for a JSON file."""
        return {
            "images": len(self.names),
            "mean_iou": self.mean_iou,
            "boundary_f": self.boundary_f,
            "out_of_candidate": self.out_of_candidate,
            "tag_map": self.tag_map,
            "constant": self.constant,
            "ignored": self.ignored,
            "per_class_iou": self.per_class.tolist(),
        }


def evaluate_cams(
    cams: Path,
    items: TagFolder,
    *,
    constant: float | None = None,
    normalisation: Normalisation = "min-max",
    progress: bool = True,
) -> TagScores:
    """Score the masks that activation maps give by themselves, of the classes that each file has.

    Args:
        cams: folder that `segmend tags cams` wrote.
        items: with masks.
        constant: background score; None sweeps 0 to 0.59 and takes the best mIoU, as the
            evaluators of SEAM and HFPL do.
    Raises:
        SegmendError: a file of maps missing or broken, or no masks.
    """
    if items.background is not None and constant is None:
        curve = CamThresholdCurve(num_classes=items.num_classes, ignore_index=items.ignore_index)
        for file, maps, _, target in _maps(cams, items, normalisation, "sweep", progress):
            curve.update(maps.clamp(0, 1), target, file.tags()[None])
        constant = curve.compute().best_threshold
    tally = _Tally(items)
    precision = TagAveragePrecision()
    for file, maps, tags, target in _maps(cams, items, normalisation, "scoring", progress):
        labels = labels_from_cams(
            maps,
            file.tags()[None],
            constant=constant if items.background is not None else None,
            background=items.background,
            ignore_index=items.ignore_index,
        )
        tally.add(labels, target, tags)
        precision.update(file.scores[None], tags)
    tag_map = float(precision.compute().mean)
    return tally.scores(items.names, tag_map=tag_map, constant=constant)


def evaluate_masks(masks: Path, items: TagFolder, *, progress: bool = True) -> TagScores:
    """Score pseudo-masks, or a segmenter's masks, against the true ones.

    Raises:
        SegmendError: a mask missing, unreadable or of another size, or no true masks.
    """
    tally = _Tally(items)
    indices = range(len(items))
    for index in track(indices, description="scoring masks", enabled=progress):
        path = masks / f"{items.names[index]}.png"
        labels = read_mask(
            path,
            num_classes=max(items.num_classes, 2),
            ignore_index=items.ignore_index,
            encoding="index",
        )
        target = _target(items, index)
        if labels.shape != target.shape:
            raise SegmendError(
                f"{path}: is {tuple(labels.shape)}, its true mask {tuple(target.shape)}; want the "
                "same height and width"
            )
        tally.add(labels[None], target[None], items.tags(index, target=target)[None])
    return tally.scores(items.names)


class _Tally:
    """Counts of one image after the other."""

    def __init__(self, items: TagFolder) -> None:
        self.items = items
        self.regions: list[Tensor] = []
        self.boundaries: list[Tensor] = []
        self.rate = OutOfCandidateRate(background=items.background)
        self.open_pixels = 0
        self.pixels = 0

    def add(self, labels: Tensor, target: Tensor, tags: Tensor) -> None:
        """Labels and target (1, H, W), tags (1, C)."""
        items = self.items
        left_open = labels == items.ignore_index
        self.open_pixels += int(left_open.sum())
        self.pixels += labels.numel()
        if items.background is not None:
            labels = labels.masked_fill(left_open, items.background)
            self.rate.update(labels, tags, target != items.ignore_index)
        else:
            self.rate.update(labels.masked_fill(left_open, 0), tags, ~left_open)
            # Without a background to fall back on, any class but the true one is a miss.
            wrong = torch.where(target == 0, 1, 0)
            labels = torch.where(left_open, wrong, labels)
        classes, ignored = items.num_classes, items.ignore_index
        self.regions.append(
            region_counts(labels, target, num_classes=classes, ignore_index=ignored)
        )
        self.boundaries.append(
            boundary_counts(labels, target, num_classes=classes, ignore_index=ignored)
        )

    def scores(
        self, names: list[str], *, tag_map: float | None = None, constant: float | None = None
    ) -> TagScores:
        """The figures of all that was added."""
        region, boundary = torch.cat(self.regions), torch.cat(self.boundaries)
        per_class = iou(region.sum(0))
        outline = class_mean(boundary_f(boundary.sum(0)), background=self.items.background)
        return TagScores(
            names=list(names),
            region=region,
            boundary=boundary,
            mean_iou=float(class_mean(per_class).mean),
            boundary_f=float(outline.mean),
            per_class=per_class,
            out_of_candidate=float(self.rate.compute().of_pixels),
            tag_map=tag_map,
            constant=constant,
            ignored=self.open_pixels / max(self.pixels, 1),
        )


def _maps(
    cams: Path, items: TagFolder, normalisation: Normalisation, what: str, progress: bool
) -> Iterator[tuple[CamFile, Tensor, Tensor, Tensor]]:
    """File, normalised maps (1, C, H, W) at the image's size, true tags and target, by image."""
    for index in track(range(len(items)), description=f"maps: {what}", enabled=progress):
        file = read_cams(cams / f"{items.names[index]}.npz", num_tags=items.num_tags)
        target = _target(items, index)
        tags = items.tags(index, target=target)[None]
        full = F.interpolate(
            file.dense()[None], size=tuple(target.shape), mode="bilinear", align_corners=False
        )
        maps = normalise_cams(full, file.tags()[None], method=normalisation)
        yield file, maps, tags, target[None]


def _target(items: TagFolder, index: int) -> Tensor:
    if "masks" not in items.matches[index].paths:
        raise SegmendError(f"{items.root}: has no true masks to score against (want `masks`)")
    return items.target(index)
