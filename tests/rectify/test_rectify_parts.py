"""Head, gate, masking and the module, each against what its docstring promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.rectify import (
    HierarchicalHead,
    OutOfCandidateRectification,
    TagGate,
    candidates_of,
    gate_logits,
    hierarchical_logits,
    mask_probabilities,
    masked_labels,
    rectification_loss,
)


@pytest.mark.parametrize("background", [0, 2, 3])
def test_hierarchical_logits_are_log_probabilities_of_two_decisions(background):
    z, u = torch.randn(2, 1, 3, 4), torch.randn(2, 3, 3, 4)
    logits = hierarchical_logits(z, u, background=background)
    probs = logits.softmax(1)
    torch.testing.assert_close(logits.exp(), probs)
    torch.testing.assert_close(probs[:, background], z[:, 0].sigmoid())
    classes = [k for k in range(4) if k != background]
    torch.testing.assert_close(probs[:, classes], (1 - z.sigmoid()) * u.softmax(1))
    sharp = hierarchical_logits(z.half() * 1e4, u.half() * 1e4, background=background)
    assert sharp.isfinite().all()
    assert sharp.dtype == torch.float32


def test_head_gives_the_joint_logits_and_their_parts():
    head = HierarchicalHead(6, 4, background=1)
    found = head(torch.randn(2, 6, 3, 3))
    assert found.classes.shape == (2, 3, 3, 3)
    torch.testing.assert_close(
        found.logits, hierarchical_logits(found.background, found.classes, background=1)
    )
    with pytest.raises(SegmendError, match="num_classes, background"):
        HierarchicalHead(6, 1)
    with pytest.raises(SegmendError, match="background_logits: want"):
        hierarchical_logits(torch.zeros(2, 2, 3, 3), torch.zeros(2, 3, 3, 3))


@pytest.mark.parametrize("background", [0, 1, None])
def test_gate_multiplies_the_odds_by_the_tags_probability(background):
    logits, tags = torch.randn(2, 4, 3, 3), torch.randn(2, 4 - (background is not None))
    found = gate_logits(logits, tags, background=background)
    factor = tags.sigmoid()
    if background is not None:
        one = torch.ones(2, 1)
        factor = torch.cat((factor[:, :background], one, factor[:, background:]), 1)
    torch.testing.assert_close(found.exp(), logits.exp() * factor[:, :, None, None])
    torch.testing.assert_close(gate_logits(logits, tags, background=background, strength=0), logits)
    with pytest.raises(SegmendError, match="tag_logits: want"):
        gate_logits(logits, torch.randn(2, 6), background=background)


def test_gate_pools_what_is_image_and_learns_by_cross_entropy():
    gate = TagGate(5, 3, weight=0.3)
    features, valid = torch.randn(2, 5, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    valid[:, 2:] = False
    torch.testing.assert_close(
        gate.tag_logits(features, valid), gate.tag_logits(features[:, :, :2])
    )
    empty = gate.tag_logits(features, torch.zeros_like(valid))
    torch.testing.assert_close(empty, gate.linear.bias.expand(2, 3))
    tags = torch.tensor([[1, 0, 1], [0, 0, 0]])
    scores = gate.tag_logits(features)
    wanted = -0.3 * (tags * scores.sigmoid().log() + (1 - tags) * (-scores).sigmoid().log()).mean()
    torch.testing.assert_close(gate.loss(scores, tags), wanted)
    with pytest.raises(SegmendError, match="tags: want"):
        gate.loss(scores, tags[:, :2])


def test_gate_pools_in_half_precision_what_would_not_fit_there_as_a_sum():
    gate = TagGate(4, 3).half()
    features = torch.full((1, 4, 40, 40), 100.0, dtype=torch.float16)
    expected = gate.linear(torch.full((1, 4), 100.0, dtype=torch.float16))
    valid = torch.ones(1, 40, 40, dtype=torch.bool)
    for found in (gate.tag_logits(features), gate.tag_logits(features, valid)):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.1)


def masked_by_loop(p, names, mode, background):
    """(probabilities, label) of one pixel."""
    k = len(p)
    if background is None:
        names = names or list(range(k))
        total = sum(p[i] for i in names)
        return [p[i] / total if i in names else 0.0 for i in range(k)], max(
            names, key=lambda i: p[i]
        )
    inside = [i for i in names if i != background]
    label = max(range(k), key=lambda i: p[i])
    if mode == "all":
        total = sum(p[i] for i in names)
        return [p[i] / total if i in names else 0.0 for i in range(k)], max(
            names, key=lambda i: p[i]
        )
    total = sum(p[i] for i in inside)
    probs = [0.0] * k
    for i in inside:
        probs[i] = (1 - p[background]) * p[i] / total
    probs[background] = p[background] if inside else 1.0
    if label == background or not inside:
        return probs, background
    return probs, max(inside, key=lambda i: p[i])


@given(st.integers(0, 10**6), st.sampled_from(["all", "keep"]), st.sampled_from([0, 1, None]))
def test_masking_agrees_with_loops(seed, mode, background):
    rng = torch.Generator().manual_seed(seed)
    probs = torch.randn(2, 4, 2, 3, generator=rng, dtype=torch.float64).mul(3).softmax(1)
    tags = torch.rand(2, 4 - (background is not None), generator=rng) < 0.4
    candidates = candidates_of(tags, background=background)
    found = mask_probabilities(probs, candidates, mode=mode, background=background)
    labels = masked_labels(probs, candidates, mode=mode, background=background)
    for n in range(2):
        names = candidates[n].nonzero().flatten().tolist()
        for y in range(2):
            for x in range(3):
                wanted, label = masked_by_loop(probs[n, :, y, x].tolist(), names, mode, background)
                torch.testing.assert_close(
                    found[n, :, y, x], torch.tensor(wanted, dtype=torch.float64)
                )
                assert int(labels[n, y, x]) == label


def test_masking_of_certain_probabilities_stays_defined():
    probs = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    candidates = torch.tensor([[True, False, True]])
    kept = mask_probabilities(probs, candidates, mode="keep")[0, :, 0, 0]
    assert kept.tolist() == [0.0, 0.0, 1.0]
    alike = mask_probabilities(probs, candidates, mode="all")[0, :, 0, 0]
    assert alike.tolist() == [0.5, 0.0, 0.5]
    with pytest.raises(SegmendError, match="mode: want one of"):
        mask_probabilities(probs, candidates, mode="some")


def test_module_is_the_weighted_loss_and_leaves_out_what_is_ignored():
    logits, tags = torch.randn(2, 5, 6, 6), torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]])
    ignore = torch.rand(2, 6, 6) < 0.3
    loss = OutOfCandidateRectification(5, weight=0.25, form="all", margin=0.5)
    wanted = 0.25 * rectification_loss(
        logits, candidates_of(tags), form="all", margin=0.5, valid=~ignore
    )
    torch.testing.assert_close(loss(logits, tags, ignore), wanted)
    everything = torch.ones(2, 6, 6, dtype=torch.bool)
    assert loss(logits.requires_grad_(), tags, everything) == 0


def test_module_works_with_its_defaults_and_learns():
    """Plain steps down the loss alone: no pixel wears an impossible class any more."""
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    tags = torch.tensor([[0, 1, 0]])
    loss = OutOfCandidateRectification(4, weight=1.0)
    for _ in range(50):
        logits.grad = None
        loss(logits, tags).backward()
        with torch.no_grad():
            logits -= 20 * logits.grad
    assert float(loss(logits, tags)) == 0


def test_weight_starts_late_and_rises():
    logits, tags = torch.randn(1, 4, 8, 8), torch.tensor([[0, 1, 0]])
    loss = OutOfCandidateRectification(4, start=2, warm_up=2)
    full = float(loss.eval()(logits, tags))
    assert full > 0
    loss.train()
    shares = [float(loss(logits, tags)) / full for _ in range(6)]
    assert shares == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    resumed = OutOfCandidateRectification(4, start=2, warm_up=2)
    resumed.load_state_dict(loss.state_dict())
    assert resumed.ramp() == 1.0


def test_prior_is_counted_from_what_passes_by_or_from_a_table():
    tags = torch.tensor([[1, 1, 0], [0, 1, 0]])
    loss = OutOfCandidateRectification(4, adaptive=True)
    loss(torch.randn(2, 4, 3, 3), tags)
    loss(torch.randn(2, 4, 3, 3), tags)
    assert int(loss.correlation.images) == 4
    loss.eval()(torch.randn(2, 4, 3, 3), tags)
    assert int(loss.correlation.images) == 4
    loss.count(tags)
    loss.train()(torch.randn(2, 4, 3, 3), tags)
    assert int(loss.correlation.images) == 2


def test_without_a_background_all_channels_are_tags():
    loss = OutOfCandidateRectification(3, background=None)
    logits = torch.randn(2, 3, 4, 4)
    tags = torch.tensor([[1, 0, 1], [0, 1, 0]])
    wanted = 0.1 * rectification_loss(logits, tags.bool(), form="any", background=None)
    torch.testing.assert_close(loss(logits, tags), wanted)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": -1}, "weight, start, warm_up"),
        ({"form": "some"}, "form: want"),
        ({"average": "some"}, "average: want"),
        ({"background": 4}, "background: want"),
        ({"rho": 2.0}, "rho: want"),
        ({"margin": float("inf")}, "margin: want"),
    ],
)
def test_options_are_checked_when_built(options, said):
    with pytest.raises(SegmendError, match=said):
        OutOfCandidateRectification(4, **options)


@pytest.mark.parametrize(
    ("logits", "tags", "ignore", "said"),
    [
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 3), None, "logits: want 4 channels"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 4), None, "leave its column out"),
        (torch.zeros(1, 4, 2, 2), torch.full((1, 3), 2), None, "tags: want 0 or 1"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(2, 3), None, "candidates: want bool"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 3), torch.zeros(1, 2, 2), "ignore: want bool"),
    ],
)
def test_bad_input_is_named(logits, tags, ignore, said):
    with pytest.raises(SegmendError, match=said):
        OutOfCandidateRectification(4)(logits, tags, ignore)


def test_cross_entropy_with_rectification_under_autocast():
    net = torch.nn.Conv2d(3, 4, 1)
    images, target = torch.rand(2, 3, 8, 8), torch.randint(4, (2, 8, 8))
    tags = torch.tensor([[1, 0, 0], [0, 0, 1]])
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
        loss = OutOfCandidateRectification(4)(logits, tags)
        loss = loss + F.cross_entropy(logits.float(), target)
    loss.backward()
    assert net.weight.grad.isfinite().all()
