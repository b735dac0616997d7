"""OCR: out-of-candidate rectification, so that no pixel wears a class its image does not have."""

from __future__ import annotations

from segmend.rectify.candidates import (
    candidates_from_scores,
    candidates_of,
    out_of_candidate_mask,
)
from segmend.rectify.correlation import LabelCorrelation
from segmend.rectify.gate import TagGate, gate_logits
from segmend.rectify.groups import AdaptiveSplit, Groups, split_groups
from segmend.rectify.head import HierarchicalHead, HierarchicalLogits, hierarchical_logits
from segmend.rectify.loss import rectification_loss
from segmend.rectify.masking import mask_probabilities, masked_labels
from segmend.rectify.module import OutOfCandidateRectification
from segmend.rectify.ranking import group_ranking

__all__ = [
    "AdaptiveSplit",
    "Groups",
    "HierarchicalHead",
    "HierarchicalLogits",
    "LabelCorrelation",
    "OutOfCandidateRectification",
    "TagGate",
    "candidates_from_scores",
    "candidates_of",
    "gate_logits",
    "group_ranking",
    "hierarchical_logits",
    "mask_probabilities",
    "masked_labels",
    "out_of_candidate_mask",
    "rectification_loss",
    "split_groups",
]
