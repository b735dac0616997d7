"""SEAM's classifier: pixel correlation revises the maps that it draws."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from segmend.models.backbones import Backbone
from segmend.tags.classifier import CamClassifier, ClassifierSpec, Reading
from segmend.tags.pixel_correlation import PixelCorrelation
from segmend.tags.pooling import pool_scores


class View(NamedTuple):
    """One size of a batch: `logits` (N, C, h, w), `revised` maps with background
    (N, 1 + C, h, w), the backbone's last `features` (N, D, h, w), and which cells are image."""

    logits: Tensor
    revised: Tensor
    features: Tensor
    valid: Tensor | None


class SeamClassifier(CamClassifier):
    """A classifier with SEAM's pixel correlation, which revises the maps that it draws."""

    def __init__(self, backbone: Backbone, spec: ClassifierSpec) -> None:
        super().__init__(backbone, spec)
        middle, late = (backbone.channels[level] for level in backbone.correlated)
        self.correlation = PixelCorrelation(middle, late)

    def view(self, images: Tensor, valid: Tensor | None = None) -> View:
        """Everything that losses take of a batch; `valid` is bool (N, h, w)."""
        prepared = self.prepared(images)
        levels = self.backbone(prepared)
        logits = self.head(levels[-1])
        middle, late = (
            F.interpolate(levels[i], logits.shape[2:], mode="bilinear", align_corners=True)
            if levels[i].shape[2:] != logits.shape[2:]
            else levels[i]
            for i in self.backbone.correlated
        )
        revised = self.correlation(logits, prepared, middle, late, valid)
        return View(logits, revised, levels[-1], valid)

    def read(self, images: Tensor, tags: Tensor | None = None) -> Reading:
        found = self.view(images)
        return Reading(found.revised[:, 1:].float(), pool_scores(found.logits.float()))
