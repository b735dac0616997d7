"""Out-of-candidate pixels against pixel loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.metrics import OutOfCandidateRate, out_of_candidate_counts, out_of_candidate_rates


@st.composite
def cases(draw):
    """(prediction, tags, valid, background): one to four taggable classes, images without tags."""
    num_tags = draw(st.integers(1, 4))
    background = draw(st.sampled_from([None, 0, num_tags]))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    num_classes = num_tags + (background is not None)
    prediction = torch.randint(num_classes, shape, generator=generator)
    tags = torch.randint(2, (shape[0], num_tags), generator=generator)
    valid = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.7, 1.0]))
    return prediction, tags, valid, background


def by_definition(prediction, tags, valid, background):
    """Oracle: one pixel at a time, candidates as a set of labels."""
    rows = np.zeros((len(prediction), 3), dtype=np.int64)
    names = [c for c in range(tags.shape[1] + 1) if c != background]
    for n, y, x in np.ndindex(*prediction.shape):
        if not valid[n, y, x]:
            continue
        candidates = {names[i] for i in range(tags.shape[1]) if tags[n, i]} | {background}
        label = int(prediction[n, y, x])
        rows[n] += [label not in candidates, label != background, 1]
    return torch.from_numpy(rows)


@given(cases(), st.sampled_from([torch.int64, torch.float32, torch.bool]))
def test_counts_agree_with_the_definition(case, dtype):
    prediction, tags, valid, background = case
    counts = out_of_candidate_counts(prediction, tags.to(dtype), valid=valid, background=background)
    assert torch.equal(counts, by_definition(*case))


@given(cases())
def test_ignored_pixels_cannot_matter(case):
    prediction, tags, valid, background = case
    spoilt = prediction.masked_fill(~valid, 255)
    counts = [
        out_of_candidate_counts(x, tags, valid=valid, background=background)
        for x in (spoilt, prediction)
    ]
    assert torch.equal(*counts)


@given(st.lists(cases().filter(lambda case: case[3] == 0), min_size=1, max_size=3))
def test_streamed_and_merged_rates_are_those_of_all_rows(batches):
    parts, rows = [OutOfCandidateRate(), OutOfCandidateRate()], []
    for index, (prediction, tags, valid, _) in enumerate(batches):
        parts[index % 2].update(prediction, tags, valid)
        rows.append(by_definition(prediction, tags, valid, 0))
    parts[0].merge_state(parts[1])
    rows = torch.cat(rows).double()
    found = parts[0].compute()
    out, foreground, valid = rows.sum(0)
    images = (rows[:, 0] > 0).sum() / (rows[:, 2] > 0).sum()
    expected = torch.stack((out / valid, out / foreground, images.double()))
    torch.testing.assert_close(torch.stack(found[:3]), expected, equal_nan=True)
    assert found.num_images == len(rows)
    again = out_of_candidate_rates(rows.long())
    torch.testing.assert_close(torch.stack(again[:3]), expected, equal_nan=True)


def test_without_valid_every_pixel_counts_and_no_tags_leave_only_background():
    prediction = torch.tensor([[[0, 1], [2, 0]]])
    assert out_of_candidate_counts(prediction, torch.zeros(1, 2)).tolist() == [[2, 2, 4]]
    assert out_of_candidate_counts(prediction, torch.ones(1, 2)).tolist() == [[0, 2, 4]]


@pytest.mark.parametrize(
    ("prediction", "tags", "text"),
    [
        (torch.zeros(1, 2, 2), torch.ones(1, 1), "prediction: want integer labels"),
        (torch.zeros(1, 2, 2).long(), torch.ones(2, 1), "tags: want 1 rows, got 2"),
        (torch.zeros(1, 2, 2).long(), torch.ones(1), r"tags: want \(N, C\), got \(1,\)"),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 1), 0.5), r"tags: .* found 0.5 at .*\(0, 0\)"),
        (torch.full((1, 2, 2), 2), torch.ones(1, 1), r"label 2 at index \(0, 0, 0\) .* 0..1"),
    ],
)
def test_errors_name_the_argument_and_what_came(prediction, tags, text):
    with pytest.raises(SegmendError, match=text):
        out_of_candidate_counts(prediction, tags)
    with pytest.raises(SegmendError, match="valid: want bool"):
        out_of_candidate_counts(torch.zeros(1, 2, 2).long(), torch.ones(1, 1), valid=torch.ones(1))
