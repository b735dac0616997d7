"""CoLab: context labels that stop over-segmentation, learned through meta-gradients."""

from __future__ import annotations

from segmend.context.baselines import (
    ContextSource,
    DistanceBands,
    MapContext,
    PlainContext,
    RandomContext,
    build_baseline,
)
from segmend.context.clusters import KMeansContext
from segmend.context.distance import distance_map, distance_mask, mask_from_distance
from segmend.context.generator import ContextGenerator
from segmend.context.heads import widen_head
from segmend.context.info import StepInfo
from segmend.context.labels import compose_context_labels, context_targets
from segmend.context.learner import ContextLabelLearner
from segmend.context.loss import context_loss, meta_objective
from segmend.context.merging import (
    MergedNetwork,
    merge_background,
    merge_background_probs,
    merged_copy,
)
from segmend.context.meta import MetaGradient, meta_gradient

__all__ = [
    "ContextGenerator",
    "ContextLabelLearner",
    "ContextSource",
    "DistanceBands",
    "KMeansContext",
    "MapContext",
    "MergedNetwork",
    "MetaGradient",
    "PlainContext",
    "RandomContext",
    "StepInfo",
    "build_baseline",
    "compose_context_labels",
    "context_loss",
    "context_targets",
    "distance_map",
    "distance_mask",
    "mask_from_distance",
    "merge_background",
    "merge_background_probs",
    "merged_copy",
    "meta_gradient",
    "meta_objective",
    "widen_head",
]
