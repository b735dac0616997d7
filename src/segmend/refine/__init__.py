"""PatchRefineNet: refining probability maps after training."""

from __future__ import annotations

from segmend.refine.bias_field import BiasField
from segmend.refine.export import export_onnx
from segmend.refine.grid import grid_thresholds
from segmend.refine.loss import PatchRefineLoss, patch_refine_loss
from segmend.refine.merge import merge
from segmend.refine.network import PatchRefineNet, RefinedLogits
from segmend.refine.options import RefineOptions
from segmend.refine.patch_masks import apply_thresholds, patch_iou
from segmend.refine.pseudo_labels import multiclass_pseudo_labels, patch_pseudo_labels
from segmend.refine.reference import import_reference
from segmend.refine.refiner import Refiner
from segmend.refine.thresholds import best_thresholds

__all__ = [
    "BiasField",
    "PatchRefineLoss",
    "PatchRefineNet",
    "RefineOptions",
    "RefinedLogits",
    "Refiner",
    "apply_thresholds",
    "best_thresholds",
    "export_onnx",
    "grid_thresholds",
    "import_reference",
    "merge",
    "multiclass_pseudo_labels",
    "patch_iou",
    "patch_pseudo_labels",
    "patch_refine_loss",
]
