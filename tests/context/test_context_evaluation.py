"""Scores of contexts: against counting by hand; and the comparison, end to end."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segmend.context.comparison import compare_contexts, of_method
from segmend.context.evaluation import (
    GRID,
    best_threshold,
    beyond,
    counts,
    mean_scores,
    score_contexts,
    score_difference,
)
from segmend.context.jobs import read_sets
from segmend.context.options import ContextOptions, context_methods
from segmend.data.crowded_scenes import write_crowded_scenes
from segmend.errors import SegmendError
from segmend.metrics.volume import FIELDS


@given(st.integers(0, 999))
def test_counts_at_every_threshold_by_definition(seed):
    draw = torch.Generator().manual_seed(seed)
    margins = (torch.randn(5, 6, generator=draw) * 3).mul(8).round() / 8  # some on a threshold
    target = torch.randint(0, 3, (5, 6), generator=draw)
    target[target == 2] = 255
    rows = counts(margins, target)
    for place in range(0, len(GRID), 7):
        found, truth = (margins > GRID[place]) & (target != 255), target == 1
        expected = [(found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()]
        assert rows[place].tolist() == [int(x) for x in expected]


def test_the_best_threshold_is_that_of_the_mean_dice():
    target = torch.tensor([[1, 1, 0, 0]])
    margins = torch.tensor([[3.0, 2.0, 1.5, -1.0]])
    empty = torch.zeros(1, 4, dtype=torch.int64)
    found = best_threshold([margins, margins], [{"target": target}, {"target": empty}])
    assert 1.5 <= found < 2.0
    assert best_threshold([margins], [{"target": empty}]) == 0.0


def test_background_beyond_the_boundary():
    margins = torch.tensor([-2.0, 1.0, 5.0, -4.0])
    assert beyond(margins, torch.tensor([0, 0, 1, 255])).tolist() == [2, 1, 1]


def test_a_perfect_network_is_perfect_for_both_merges():
    class Perfect(nn.Module):
        def forward(self, x):
            return torch.cat([-x, x, -x - 3], 1)

    target = torch.zeros(6, 6, dtype=torch.int64)
    target[1:3, 1:3] = 1
    items = [{"name": "a", "image": target[None] * 8.0 - 4, "target": target}]
    for scores in score_contexts(Perfect(), items, items, num_context=2, progress=False).values():
        assert scores.tuned[0, :3].tolist() == [1, 1, 1]
        assert scores.half[0, 0] == 1
        assert scores.background[0, 2] == 0


def test_difference_leaves_cases_without_a_score_out_of_both():
    base = torch.tensor([0.5, 0.7, torch.nan, 0.6])
    other = torch.tensor([0.6, 0.8, 0.1, torch.nan])
    found = score_difference(base, other)
    assert found.difference == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)


def test_means_are_over_the_same_cases_whatever_is_found_where_nothing_is():
    """A case without a target has a Dice of 0 or none, by whether anything was found there."""
    rows = torch.full((3, len(FIELDS)), 0.8, dtype=torch.float64)
    rows[2] = torch.nan
    rows[:, FIELDS.index("false_positives")] = torch.tensor([1.0, 0.0, 0.0])
    rows[:, FIELDS.index("false_positive_volume")] = torch.tensor([5.0, 1.0, 0.0])
    quiet = mean_scores(rows)
    rows[2, FIELDS.index("dice")] = rows[2, FIELDS.index("precision")] = 0
    rows[2, FIELDS.index("false_positives")] = 2
    loud = mean_scores(rows)
    assert loud["dice"] == quiet["dice"] == pytest.approx(0.8)
    assert (quiet["false_positives"], loud["false_positives"]) == (
        pytest.approx(1 / 3), pytest.approx(1.0)
    )  # fmt: skip
    assert quiet["false_positive_volume"] == pytest.approx(2)


def test_methods_keep_the_contexts_that_they_can_have():
    options = ContextOptions(num_context=4)
    found = {m: of_method(options, m).num_context for m in ("plain", "dilate", "learned", "kmeans")}
    assert found == {"plain": 1, "dilate": 2, "learned": 4, "kmeans": 4}
    assert context_methods(["learned", "plain"]) == ["learned", "plain"]
    with pytest.raises(SegmendError, match="unknown 'magic'"):
        context_methods(["magic"])


def test_comparison_of_folders_end_to_end(tmp_path):
    root = write_crowded_scenes(tmp_path / "data", counts=(16, 1, 1), size=(24, 24))
    options = ContextOptions(epochs=1, batch_size=2, crop=16, widths=(4, 6), threads=1)
    sets = read_sets(options, root / "train/images", root / "train/masks")
    rows = compare_contexts(options, sets, tmp_path / "out", progress=False)
    assert [(row.method, row.num_context) for row in rows] == [("plain", 1), ("learned", 2)]
    assert rows[0].dice_difference is None
    assert rows[1].dice_difference is not None
    assert rows[1].dice_difference.low <= rows[1].dice_difference.high
    written = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [row["method"] for row in written["rows"]] == ["plain", "learned"]
    assert {"contexts.png", "logits.png"} <= {p.name for p in (tmp_path / "out").iterdir()}
    with pytest.raises(SegmendError, match="two or more"):
        compare_contexts(options, sets, tmp_path, methods=["plain"])
