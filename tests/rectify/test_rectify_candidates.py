"""Candidates, out-of-candidate pixels, correlation and groups against plain Python loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.metrics import out_of_candidate_counts
from segmend.rectify import (
    AdaptiveSplit,
    LabelCorrelation,
    candidates_from_scores,
    candidates_of,
    out_of_candidate_mask,
    split_groups,
)
from segmend.rectify.correlation import candidate_prior


@st.composite
def cases(draw):
    """(logits (N, K, H, W), tags (N, C), background)"""
    background = draw(st.sampled_from([0, 1, None]))
    n, c = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    k = c + (background is not None)
    logits = torch.randint(-3, 4, (n, k, 3, 4), generator=rng).float()
    tags = (torch.rand(n, c, generator=rng) < draw(st.sampled_from([0.2, 0.5, 1.0]))).long()
    return logits, tags, background


def candidates_by_loop(tags, background):
    rows = []
    for row in tags.tolist():
        names = [bool(t) for t in row]
        if background is not None:
            names.insert(background, True)
        rows.append(names)
    return rows


@given(cases())
def test_mask_agrees_with_loops(case):
    logits, tags, background = case
    rows = candidates_by_loop(tags, background)
    candidates = candidates_of(tags, background=background)
    assert candidates.tolist() == rows
    found = out_of_candidate_mask(logits, candidates)
    for n in range(len(logits)):
        for y in range(3):
            for x in range(4):
                scores = logits[n, :, y, x].tolist()
                leaders = [k for k, s in enumerate(scores) if s == max(scores)]
                assert found[n, y, x] == (not any(rows[n][k] for k in leaders))


@given(cases())
def test_mask_agrees_with_the_metric_where_nothing_ties(case):
    logits, tags, background = case
    logits = logits + torch.linspace(0, 0.9, logits.shape[1]).view(1, -1, 1, 1)
    valid = torch.rand(len(logits), 3, 4) < 0.7
    candidates = candidates_of(tags, background=background)
    counts = out_of_candidate_counts(logits.argmax(1), tags, valid=valid, background=background)
    mask = out_of_candidate_mask(logits, candidates, valid=valid)
    assert torch.equal(mask.flatten(1).sum(1), counts[:, 0])


def test_mask_of_many_classes_and_volumes_and_half_precision():
    logits = torch.randn(2, 40, 2, 3, 2).bfloat16()
    candidates = torch.rand(2, 40) < 0.6
    best = logits.amax(1, keepdim=True)
    leads = ((logits == best) & candidates.view(2, 40, 1, 1, 1)).any(1)
    assert torch.equal(out_of_candidate_mask(logits, candidates), ~leads)


def test_a_pixel_with_nan_is_left_alone_and_one_without_candidates_is_out():
    logits = torch.zeros(2, 3, 1, 2)
    logits[:, 2, 0, 0] = torch.nan
    candidates = torch.tensor([[True, False, False], [False] * 3])
    logits[:, 1, 0, 1] = 1.0
    assert out_of_candidate_mask(logits, candidates).tolist() == [[[False, True]]] * 2


@pytest.mark.parametrize(
    ("tags", "options", "said"),
    [
        (torch.zeros(2, 3), {"num_classes": 3}, "leave its column out"),
        (torch.zeros(2, 5), {"num_classes": 3}, "want 2 columns for 3 classes, got 5"),
        (torch.zeros(2, 2), {"num_classes": 3, "background": None}, "want 3 columns"),
        (torch.tensor([[0.0, 0.5]]), {}, r"found 0.5 at index \(0, 1\)"),
        (torch.tensor([[0.0, torch.nan]]), {}, "found nan"),
        (torch.tensor([[0, 2]]), {}, "found 2"),
        (torch.zeros(3), {}, r"want numbers \(N, C\)"),
        (torch.zeros(1, 3), {"background": 4}, "want a label 0..3"),
    ],
)
def test_bad_tags_are_refused(tags, options, said):
    with pytest.raises(SegmendError, match=said):
        candidates_of(tags, **options)


def test_candidates_from_scores():
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.2, 0.05]])
    found = candidates_from_scores(scores, background=None)
    assert found.tolist() == [[True, False, True], [False] * 3]
    found = candidates_from_scores(scores, at_least=1, background=None)
    assert found[1].tolist() == [False, True, False]
    assert candidates_from_scores(scores, threshold=0.3)[0].tolist() == [True, True, False, True]
    with pytest.raises(SegmendError, match="apply sigmoid"):
        candidates_from_scores(scores * 3)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_correlation_counts_pairs(seed, c):
    tags = (torch.rand(7, c, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    found = LabelCorrelation.from_tags(tags).matrix
    rows = tags.tolist()
    for a in range(c):
        for b in range(c):
            both = sum(row[a] and row[b] for row in rows)
            alone = sum(row[b] for row in rows)
            assert math.isclose(float(found[a, b]), (both + 1) / (alone + c), rel_tol=1e-6)
    streamed, other = LabelCorrelation(c), LabelCorrelation(c)
    streamed.update(tags[:3])
    streamed.update(tags[3:5].bool())
    other.update(tags[5:].long())
    streamed.merge(other)
    again = LabelCorrelation(c)
    again.load_state_dict(streamed.state_dict())
    assert torch.equal(again.matrix, found)
    assert int(again.images) == 7


def prior_by_loop(matrix, leader, candidates, background):
    c = len(matrix)
    labels = [k for k in range(c + (background is not None)) if k != background]
    tag_of = {label: tag for tag, label in enumerate(labels)}
    raw = {k: float(matrix[tag_of[k], tag_of[leader]]) for k in labels if candidates[k]}
    if background is not None:
        raw[background] = max(raw.values(), default=1.0)
    total = sum(raw.values())
    return [raw.get(k, 0.0) / total if total else 0.0 for k in range(len(candidates))]


def split_by_loop(scores, candidates, matrix, gamma, rho, dropped, background, joins):
    inside_candidates = [k for k, c in enumerate(candidates) if c]
    outside = [k for k, c in enumerate(candidates) if not c]
    if not inside_candidates:
        return set(), set(range(len(scores))) - ({background} if joins != "always" else set())
    leader = max(outside, key=lambda k: scores[k]) if outside else None
    total = sum(math.exp(scores[k]) for k in inside_candidates)
    posterior = {k: math.exp(scores[k]) / total for k in inside_candidates}
    prior = prior_by_loop(matrix, leader, candidates, background) if outside else None
    allowed = list(inside_candidates)
    if background is not None and joins != "always":
        best = max(inside_candidates, key=lambda k: scores[k])
        if joins == "never" or best != background:
            allowed.remove(background)
    r = {k: prior[k] ** gamma * posterior[k] ** (1 - gamma) for k in allowed}
    inside = {k for k in allowed if r[k] >= rho * max(r.values()) * (1 - 1e-6)}
    rest = set(outside) if dropped == "neutral" else set(range(len(scores))) - inside
    return inside, rest - ({background} if joins != "always" else set())


@given(
    cases(),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.35, 1.0]),
    st.sampled_from(["out", "neutral"]),
    st.sampled_from(["always", "leads", "never"]),
)
def test_groups_agree_with_loops(case, gamma, rho, dropped, joins):
    logits, tags, background = case
    candidates = candidates_of(tags, background=background)
    if bool(candidates.all()):
        return
    rng = torch.Generator().manual_seed(int(logits.sum()) % 1000)
    matrix = torch.rand(tags.shape[1], tags.shape[1], generator=rng).clamp_min(0.05)
    rows = logits[:, :, 0].transpose(1, 2).flatten(0, 1) + torch.linspace(0, 0.5, logits.shape[1])
    each = candidates.repeat_interleave(4, 0)
    found = split_groups(
        rows, each, matrix, gamma=gamma, rho=rho, dropped=dropped,
        background=background, background_joins=joins,
    )  # fmt: skip
    assert not bool((found.inside & found.outside).any())
    for number in range(len(rows)):
        if bool(each[number].all()):
            continue
        inside, outside = split_by_loop(
            rows[number].tolist(), each[number].tolist(), matrix, gamma, rho, dropped,
            background, joins,
        )  # fmt: skip
        assert set(found.inside[number].nonzero().flatten().tolist()) == inside
        assert set(found.outside[number].nonzero().flatten().tolist()) == outside


def test_prior_favours_what_goes_with_the_wrong_class():
    # Cow (1) goes with grass (2), never with sofa (3): a pixel that says cow is rather grass.
    tags = torch.tensor([[1, 1, 0]] * 30 + [[0, 0, 1]] * 30)
    matrix = LabelCorrelation.from_tags(tags).matrix
    candidates = torch.tensor([[True, False, True, True]])
    prior = candidate_prior(matrix, torch.tensor([1]), candidates)[0]
    assert prior[2] > 5 * prior[3]
    assert prior[0] == prior[2]
    scores = torch.tensor([[0.0, 3.0, 1.0, 1.2]])
    groups = AdaptiveSplit(matrix)(scores, candidates)
    assert groups.inside.tolist() == [[True, False, True, False]]
    assert groups.outside.tolist() == [[False, True, False, True]]


def test_split_of_extreme_logits_keeps_someone():
    scores = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
    candidates = torch.tensor([[False, True, True], [True, False, False]])
    groups = split_groups(scores, candidates, LabelCorrelation(2).matrix)
    assert groups.inside.any(1).all()


@pytest.mark.parametrize(
    "options", [{"gamma": 2}, {"rho": -1}, {"dropped": "x"}, {"background_joins": "x"}]
)
def test_options_of_a_split_are_checked(options):
    with pytest.raises(SegmendError, match=next(iter(options))):
        AdaptiveSplit(**options)
