"""What a segmenter's figures hide: the background's share, and the bound with true tags."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segmend.data.tags import TagFolder
from segmend.engine.progress import track
from segmend.metrics import (
    boundary_counts,
    boundary_f,
    class_mean,
    iou,
    out_of_candidate_counts,
    region_counts,
)
from segmend.rectify.candidates import candidates_of
from segmend.rectify.inference import Refine, masked_reading, read_image_probabilities
from segmend.rectify.masking import masked_labels
from segmend.rectify.network import RectifiedSegmenter
from segmend.rectify.options import RectifyPredictOptions


@dataclass(frozen=True)
class RectifyScores:
    """Counts of each image, and figures of the set as shares in [0, 1].

    A falling out-of-candidate rate proves nothing while the background's share rises: read the
    two together with mIoU.

    Attributes:
        names: images scored.
        region: int64 (N, K, 3), boundary: int64 (N, K, 4), bound: int64 (N, K, 3), the region's
            when the labels are masked by the true tags ("keep").
        candidates: int64 (N, 3), as `out_of_candidate_counts`.
        mean_iou, boundary_f: over the classes present, as in `TagScores` of `segmend tags`.
        out_of_candidate: share of pixels whose class is no tag of the image.
        background_share: predicted; `true_background` is that of the true masks. NaN without a
            background class.
        true_tag_iou: mIoU of `bound`: what perfect knowledge of the tags would give.
    """

    names: list[str]
    region: Tensor
    boundary: Tensor
    bound: Tensor
    candidates: Tensor
    mean_iou: float
    boundary_f: float
    out_of_candidate: float
    background_share: float
    true_background: float
    true_tag_iou: float

    def summary(self) -> dict[str, float | int]:
        """The figures alone, for a JSON file."""
        return {
            "images": len(self.names),
            "mean_iou": self.mean_iou,
            "boundary_f": self.boundary_f,
            "out_of_candidate": self.out_of_candidate,
            "background_share": self.background_share,
            "true_background": self.true_background,
            "true_tag_iou": self.true_tag_iou,
        }


def evaluate_rectified(
    model: RectifiedSegmenter,
    items: TagFolder,
    *,
    options: RectifyPredictOptions | None = None,
    refine: Refine | None = None,
    progress: bool = True,
) -> RectifyScores:
    """Score a segmenter on images with true masks and tags.

    Args:
        model: in evaluation mode.
        options: of the prediction; masking there is by the gate's tags, never by the true ones.
        refine: as in `predict_rectified`.
    """
    options = options or RectifyPredictOptions()
    classes, ignored, background = items.num_classes, items.ignore_index, items.background
    parts: list[list[Tensor]] = [[], [], [], [], []]
    for index in track(range(len(items)), description="scoring", enabled=progress):
        item = items[index]
        target, tags = item["target"][None], item["tags"][None]
        image = item["image"].to(model.mean.device)
        reading = read_image_probabilities(model, image, options, refine=refine)
        labels = masked_reading(reading, options, background=background)[1][None].cpu()
        best = masked_labels(
            reading.probs[None].cpu(), candidates_of(tags, background=background),
            background=background,
        )  # fmt: skip
        valid = target != ignored
        behind = torch.stack([(valid & (x == background)).sum() for x in (labels, target)])
        found = (
            region_counts(labels, target, num_classes=classes, ignore_index=ignored),
            boundary_counts(labels, target, num_classes=classes, ignore_index=ignored),
            region_counts(best, target, num_classes=classes, ignore_index=ignored),
            out_of_candidate_counts(labels, tags, valid=valid, background=background),
            behind[None],
        )
        for rows, row in zip(parts, found, strict=True):
            rows.append(row)
    region, boundary, bound, candidates, behind = (torch.cat(rows) for rows in parts)
    out, _, pixels = candidates.sum(0).double()
    shares = behind.sum(0) / pixels if background is not None else torch.full((2,), torch.nan)
    outline = class_mean(boundary_f(boundary.sum(0)), background=background)
    return RectifyScores(
        names=list(items.names),
        region=region,
        boundary=boundary,
        bound=bound,
        candidates=candidates,
        mean_iou=float(class_mean(iou(region.sum(0))).mean),
        boundary_f=float(outline.mean),
        out_of_candidate=float(out / pixels),
        background_share=float(shares[0]),
        true_background=float(shares[1]),
        true_tag_iou=float(class_mean(iou(bound.sum(0))).mean),
    )
