"""Average precision of tags against its definition in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.metrics import TagAveragePrecision, tag_average_precision


def by_definition(scores, tags):
    """Oracle: the sum over score levels of (rise in recall) x precision."""
    total = int(tags.sum())
    if not total:
        return math.nan
    area, recall = 0.0, 0.0
    for level in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= level
        hits = int(tags[chosen].sum())
        area += (hits / total - recall) * hits / int(chosen.sum())
        recall = hits / total
    return area


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 3)))
    # few levels, so that ties occur; logits far from 0, where a float32 sigmoid would tie
    scores = rng.integers(-3, 4, shape) * draw(st.sampled_from([0.1, 1.0, 40.0]))
    return torch.from_numpy(scores).float(), torch.from_numpy(rng.integers(0, 2, shape))


@given(cases())
def test_agrees_with_the_definition(case):
    scores, tags = case
    expected = [by_definition(s.numpy(), t.numpy()) for s, t in zip(scores.T, tags.T, strict=True)]
    found = tag_average_precision(scores, tags)
    np.testing.assert_allclose(found.per_class, expected, atol=1e-6)
    np.testing.assert_allclose(found.mean, torch.tensor(expected).nanmean(), atol=1e-6)


@given(cases())
def test_stream_of_two_workers_is_the_whole(case):
    scores, tags = case
    parts = [TagAveragePrecision(), TagAveragePrecision()]
    for i in range(len(scores)):
        parts[i % 2].update(scores[i : i + 1], tags[i : i + 1])
    parts[0].merge_state(parts[1])
    expected = tag_average_precision(scores, tags)
    torch.testing.assert_close(parts[0].compute().mean, expected.mean, equal_nan=True)


@pytest.mark.parametrize(
    ("scores", "tags", "text"),
    [
        (torch.rand(2, 3), torch.ones(2, 2), r"want \(N, C\) both"),
        (torch.full((2, 1), torch.nan), torch.ones(2, 1), "finite"),
        (torch.rand(2, 1), torch.full((2, 1), 2), "tags: want 0 or 1"),
    ],
)
def test_errors(scores, tags, text):
    with pytest.raises(SegmendError, match=text):
        tag_average_precision(scores, tags)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_computing_before_any_batch_is_an_error():
    with pytest.raises(SegmendError, match="no batch was added"):
        TagAveragePrecision().compute()
