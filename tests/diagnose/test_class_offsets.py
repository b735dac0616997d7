"""Class offsets by coordinate ascent, against counting again at each offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.diagnose.case import Case
from segmend.diagnose.frame import frame_of
from segmend.diagnose.oracles.offsets import GRID, OffsetSample, _curve, best_offsets
from segmend.diagnose.scoring import pooled_score
from segmend.metrics import class_score, iou, region_counts


def score(labels: np.ndarray, truth: np.ndarray, num_classes: int) -> float:
    pair = (torch.from_numpy(x).view(1, 1, -1) for x in (labels, truth))
    return float(class_score(iou(region_counts(*pair, num_classes=num_classes)[0])))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(3, 5))
def test_curve_counts_every_offset(seed: int, num_classes: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(60, num_classes)).astype(np.float32) * 2
    truth = generator.integers(0, num_classes, 60)
    label = int(generator.integers(num_classes))
    others = scores.copy()
    others[:, label] = -np.inf
    rival = others.argmax(1)
    need = others.max(1) - scores[:, label]
    members = np.bincount(truth, minlength=num_classes)
    found = _curve(need, rival, truth, members, label)
    for value, offset in zip(found, GRID, strict=True):
        labels = np.where(need < offset, label, rival)
        assert np.isclose(value, score(labels, truth, num_classes))


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_offsets_never_lower_the_score(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, 200)
    scores = generator.normal(size=(200, 4)).astype(np.float32)
    scores[np.arange(200), truth] += 2
    scores += generator.normal(size=4).astype(np.float32) * 2
    after = (scores + best_offsets(scores, truth)).argmax(1)
    assert score(after, truth, 4) >= score(scores.argmax(1), truth, 4) - 1e-12


def test_a_planted_offset_is_taken_back_and_holds_on_other_images() -> None:
    generator = np.random.default_rng(0)
    sample = OffsetSample(4, 3)
    for index in range(4):
        target = torch.from_numpy(generator.integers(0, 3, (16, 16)))
        logits = torch.from_numpy(generator.normal(size=(3, 16, 16))).float()
        logits.scatter_add_(0, target[None], torch.full((1, 16, 16), 4.0))
        logits[0] += 3  # background against both others at once
        probs = logits.softmax(0)
        case = Case(str(index), probs.argmax(0), target, torch.ones(16, 16).bool(), probs)
        sample.add(index, case, frame_of(case, 3))
    *counts, offsets = sample.counts()
    base, best, held_out = (pooled_score(each) for each in counts)
    assert offsets == pytest.approx((0.0, 3.0, 3.0), abs=0.8)
    assert best > base + 0.1
    assert held_out > base + 0.1
    assert best >= held_out
