"""HFPL: masks from image tags, by class activation maps with better regions and contours."""

from __future__ import annotations

from segmend.tags.activation import (
    background_score,
    labels_from_cams,
    max_norm,
    normalise_cams,
    similarity_inputs,
)
from segmend.tags.dense_crf import CRF_SETTINGS, CrfSettings, dense_crf, dense_crf_from_labels
from segmend.tags.importance import ImportanceSamplingLoss, importance_sampling_loss
from segmend.tags.network import TagClassifier, build_classifier
from segmend.tags.pamr import pamr
from segmend.tags.pseudo_masks import BackgroundPower, PseudoMask, pseudo_mask
from segmend.tags.random_walk import random_walk
from segmend.tags.similarity import FeatureSimilarityLoss, feature_similarity_loss

__all__ = [
    "CRF_SETTINGS",
    "BackgroundPower",
    "CrfSettings",
    "FeatureSimilarityLoss",
    "ImportanceSamplingLoss",
    "PseudoMask",
    "TagClassifier",
    "background_score",
    "build_classifier",
    "dense_crf",
    "dense_crf_from_labels",
    "feature_similarity_loss",
    "importance_sampling_loss",
    "labels_from_cams",
    "max_norm",
    "normalise_cams",
    "pamr",
    "pseudo_mask",
    "random_walk",
    "similarity_inputs",
]
