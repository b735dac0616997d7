"""The loss against the definitions in plain Python, and what each form does to the background."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.rectify import (
    AdaptiveSplit,
    Groups,
    candidates_of,
    group_ranking,
    hierarchical_logits,
    out_of_candidate_mask,
    rectification_loss,
)

FORMS = ["all", "any", "foreground", "max", "hinge"]
AVERAGES = ["oc", "all", "every"]


def example(seed=0, *, n=2, c=4, background=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c + (background is not None), 4, 5, generator=rng, dtype=dtype)
    tags = (torch.rand(n, c, generator=rng) < 0.4).long()
    tags[0, 0], tags[0, 1] = 1, 0
    return logits.requires_grad_(), candidates_of(tags, background=background)


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def lse(values):
    return math.log(sum(math.exp(v) for v in values))


def of_pixel(scores, inside, outside, form, margin):
    i, o = [scores[k] for k in inside], [scores[k] for k in outside]
    if not i or not o:
        return 0.0
    if form == "all":
        return math.log1p(sum(math.exp(b - a + margin) for a in i for b in o))
    if form == "hinge":
        return sum(max(0.0, b - a + margin) for a in i for b in o)
    if form == "max":
        return softplus(margin + max(o) - max(i))
    return softplus(margin + lse(o) - lse(i))


def by_definition(logits, candidates, form, margin, average, valid, background):
    total, oc, count = 0.0, 0, 0
    for n, pixels in enumerate(logits.detach().flatten(2).transpose(1, 2).tolist()):
        for p, scores in enumerate(pixels):
            if not valid[n].flatten()[p]:
                continue
            count += 1
            names = [k for k in range(len(scores)) if candidates[n, k]]
            out = scores.index(max(scores)) not in names
            oc += out
            if not out and average != "every":
                continue
            inside, outside = names, [k for k in range(len(scores)) if k not in names]
            if form == "foreground":
                inside = [k for k in inside if k != background]
            total += of_pixel(scores, inside, outside, form, margin)
    return total / max(oc if average == "oc" else count, 1)


@given(
    st.integers(0, 10**6),
    st.sampled_from(FORMS),
    st.sampled_from(AVERAGES),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0, 2, None]),
)
def test_loss_is_its_definition(seed, form, average, margin, background):
    logits, candidates = example(seed, background=background)
    valid = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) < 0.8
    found = rectification_loss(
        logits.detach(), candidates, form=form, margin=margin, average=average, valid=valid,
        background=background,
    )  # fmt: skip
    wanted = by_definition(logits, candidates, form, margin, average, valid, background)
    assert math.isclose(float(found), wanted, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("average", AVERAGES)
def test_gradient_is_the_derivative(form, average):
    logits, candidates = example(3)

    def loss(x):
        return rectification_loss(x, candidates, form=form, average=average, margin=0.3)

    assert torch.autograd.gradcheck(loss, (logits,))


@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.booleans())
def test_gradients_push_the_right_way(seed, form, adaptive):
    logits, candidates = example(seed)
    groups = AdaptiveSplit(torch.full((4, 4), 0.2), dropped="neutral") if adaptive else None
    rectification_loss(logits, candidates, form=form, groups=groups).backward()
    grad = logits.grad
    out = out_of_candidate_mask(logits, candidates)
    assert not grad.permute(0, 2, 3, 1)[~out].any()  # pixels that are right stay as they are
    possible = candidates[:, :, None, None].expand_as(grad)
    assert (grad[possible] <= 0).all()  # a step down the gradient lifts candidates
    assert (grad[~possible] >= 0).all()  # and lowers the others
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad.sum(1)))
    if form != "foreground" and not adaptive:
        leader = grad.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        assert (leader[out] > 0).all()


@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.sampled_from(AVERAGES))
def test_a_constant_at_all_logits_changes_nothing(seed, form, average):
    logits, candidates = example(seed)
    shifted = logits.detach() + torch.randn(2, 1, 4, 5, dtype=torch.float64) * 5
    first = rectification_loss(logits, candidates, form=form, average=average)
    torch.testing.assert_close(
        rectification_loss(shifted, candidates, form=form, average=average), first
    )


@given(st.integers(0, 10**6), st.sampled_from(FORMS), st.booleans())
def test_the_order_of_foreground_classes_changes_nothing(seed, form, adaptive):
    logits, candidates = example(seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    full = torch.cat([torch.zeros(1, dtype=torch.int64), order + 1])
    matrix = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed))
    one = AdaptiveSplit(matrix) if adaptive else None
    two = AdaptiveSplit(matrix[order][:, order]) if adaptive else None
    torch.testing.assert_close(
        rectification_loss(logits[:, full], candidates[:, full], form=form, groups=two),
        rectification_loss(logits, candidates, form=form, groups=one),
    )


@given(st.integers(0, 10**6))
def test_what_each_form_does_to_the_background(seed):
    """The naive form always lifts it, "any" by its share among the candidates, "foreground" not."""
    logits, candidates = example(seed, n=1)
    out = out_of_candidate_mask(logits, candidates)
    if not bool(out.any()):
        return
    s = logits.detach().permute(0, 2, 3, 1)[out]
    y = candidates[0]
    m = len(s)

    def gradient(form):
        logits.grad = None
        rectification_loss(logits, candidates, form=form).backward()
        return logits.grad.permute(0, 2, 3, 1)[out] * m

    naive = gradient("all")[:, 0]
    g = torch.sigmoid(s[:, ~y].logsumexp(1) + (-s[:, y]).logsumexp(1))
    torch.testing.assert_close(naive, -g * (-s[:, y]).softmax(1)[:, 0])
    assert (naive < 0).all()
    g = 1 - s.softmax(1)[:, y].sum(1)  # the mass of impossible classes
    torch.testing.assert_close(gradient("any")[:, 0], -g * s[:, y].softmax(1)[:, 0])
    assert (gradient("foreground")[:, 0] == 0).all()


def test_on_a_flat_head_the_background_gains_though_its_gradient_is_zero():
    """So "foreground" alone does not stop the flight; the hierarchical head does."""
    logits = torch.tensor([1.0, 3.0, 2.5]).view(1, 3, 1, 1).requires_grad_()
    candidates = torch.tensor([[True, False, True]])
    before = logits.softmax(1)[0, 0]
    rectification_loss(logits, candidates, form="foreground").backward()
    moved = logits - 0.1 * logits.grad
    # The wrong class loses more of the sum of exponentials than the right one gains.
    assert moved.softmax(1)[0, 0] > before


@given(st.integers(0, 10**6), st.sampled_from(AVERAGES))
def test_hierarchical_head_and_foreground_ranking_cannot_touch_the_background(seed, average):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 1, 4, 5, generator=rng, requires_grad=True)
    u = (2 * torch.randn(2, 4, 4, 5, generator=rng)).requires_grad_()
    candidates = example(seed)[1]
    logits = hierarchical_logits(z, u)
    loss = rectification_loss(logits, candidates, class_logits=u, average=average)
    grad_z, grad_u = torch.autograd.grad(loss, (z, u), allow_unused=True)
    assert grad_z is None or not grad_z.any()
    with torch.no_grad():
        moved = hierarchical_logits(z, u - 10 * grad_u)
    assert torch.equal(moved[:, 0], logits[:, 0])  # to the last bit
    plain = rectification_loss(logits, candidates, average=average)
    torch.testing.assert_close(loss, plain)  # the same number from the joint logits
    (grad_z,) = torch.autograd.grad(plain, z)
    assert grad_z.abs().max() < 1e-6  # where it holds up to rounding


@given(st.integers(0, 10**6), st.sampled_from([0, None]), st.booleans())
def test_where_a_label_is_a_candidate_cross_entropy_asks_for_more(seed, background, hierarchical):
    """So rectification adds least where every pixel has a label, and what it adds on objects is
    at pixels of the background: see docs/benchmarks/rectify-findings.md."""
    rng = torch.Generator().manual_seed(seed)
    logits, candidates = example(seed, background=background)
    foreground = candidates.clone()
    if background is not None:
        foreground[:, background] = False
    if hierarchical and background is not None:
        u = 2 * torch.randn(2, 4, 4, 5, generator=rng, dtype=torch.float64)
        logits = hierarchical_logits(logits[:, :1], u)
    for n in foreground.any(1).nonzero().flatten().tolist():
        labels = foreground[n].double().multinomial(20, replacement=True, generator=rng)
        one, target = logits[n : n + 1], labels.view(1, 4, 5)
        ranking = rectification_loss(
            one, candidates[n : n + 1], average="every", background=background
        )
        assert (ranking <= F.cross_entropy(one, target) + 1e-9).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_finite_for_any_logits(dtype, form, adaptive):
    logits = (torch.randn(2, 6, 8, 8).sign() * 10 ** (4 * torch.rand(2, 6, 8, 8))).to(dtype)
    logits[:, :, 0, 0] = -1e4
    logits[:, 3, 0, 0] = 1e4
    logits.requires_grad_()
    candidates = candidates_of(torch.tensor([[1, 0, 0, 1, 0], [0] * 5]))
    groups = AdaptiveSplit(torch.rand(5, 5)) if adaptive else None
    loss = rectification_loss(logits, candidates, form=form, groups=groups)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("average", AVERAGES)
def test_nothing_to_rectify_is_zero_with_a_graph(form, average):
    for valid, candidates in (
        (torch.zeros(2, 4, 5, dtype=torch.bool), example()[1]),
        (None, torch.ones(2, 5, dtype=torch.bool)),
    ):
        logits = example()[0]
        loss = rectification_loss(logits, candidates, form=form, average=average, valid=valid)
        loss.backward()
        assert float(loss) == 0
        assert not logits.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("average", AVERAGES)
def test_an_image_without_candidates_gives_zero(form, average):
    logits, _ = example(background=None)
    nobody = torch.zeros(2, 4, dtype=torch.bool)
    loss = rectification_loss(logits, nobody, form=form, average=average, background=None)
    loss.backward()
    assert float(loss) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("adaptive", [False, True])
def test_pixels_that_are_not_finite_are_in_neither_sum_nor_count(form, average, bad, adaptive):
    logits, candidates = example(5)
    groups = AdaptiveSplit(torch.full((4, 4), 0.2)) if adaptive else None
    spoilt = logits.detach().clone()
    spoilt[0, 2, :2], spoilt[1, 3, 1:3] = bad, bad
    spoilt.requires_grad_()
    valid = spoilt.detach().isfinite().all(1)
    options = {"form": form, "average": average, "groups": groups}
    found = rectification_loss(spoilt, candidates, **options)
    if average != "all":  # there, what is not out of candidates is counted without a look at it
        wanted = rectification_loss(logits, candidates, valid=valid, **options)
        torch.testing.assert_close(found, wanted)
    found.backward()
    assert found.isfinite()
    assert spoilt.grad.isfinite().all()
    assert not spoilt.grad.permute(0, 2, 3, 1)[~valid].any()


def test_ignored_pixels_cannot_matter():
    logits, candidates = example(7)
    valid = torch.rand(2, 4, 5) < 0.6
    spoilt = logits.detach().masked_fill(~valid[:, None], torch.nan)
    for form in FORMS:
        torch.testing.assert_close(
            rectification_loss(spoilt, candidates, form=form, valid=valid),
            rectification_loss(logits, candidates, form=form, valid=valid),
        )


def test_volumes_and_channels_last_are_the_same_pixels():
    logits, candidates = example(8)
    wanted = rectification_loss(logits, candidates)
    torch.testing.assert_close(rectification_loss(logits[..., None], candidates), wanted)
    last = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = rectification_loss(last, candidates)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(last.grad, logits.grad)


@given(st.integers(0, 10**6), st.sampled_from(AVERAGES), st.integers(1, 7), st.booleans())
def test_a_stride_looks_at_a_grid_of_pixels(seed, average, stride, volume):
    logits, candidates = example(seed)
    valid = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) < 0.8
    shape = (2, 2, 2, 5) if volume else (2, 4, 5)
    whole = logits.detach().reshape(2, 5, *shape[1:]).requires_grad_()
    grid = (..., *[slice(None, None, stride)] * (whole.ndim - 2))
    found = rectification_loss(
        whole, candidates, average=average, valid=valid.view(shape), stride=stride
    )
    part = whole.detach()[grid].contiguous().requires_grad_()
    wanted = rectification_loss(part, candidates, average=average, valid=valid.view(shape)[grid])
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(whole.grad[grid], part.grad)
    elsewhere = whole.grad.clone()
    elsewhere[grid] = 0
    assert not elsewhere.any()


def test_one_against_one_is_a_softplus_in_every_soft_form():
    scores = torch.tensor([[0.3, 1.7]])
    groups = Groups(torch.tensor([[True, False]]), torch.tensor([[False, True]]))
    for form in ("all", "any", "max"):
        found = group_ranking(scores, groups, form=form, margin=0.5)
        assert math.isclose(float(found), softplus(0.5 + 1.4), rel_tol=1e-6)
    with pytest.raises(SegmendError, match="form: want one of"):
        group_ranking(scores, groups, form="some")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"form": "some"}, "form: want one of"),
        ({"average": "some"}, "average: want one of"),
        ({"margin": math.nan}, "margin: want a number"),
        ({"stride": 0}, "stride: want 1 or more"),
        ({"background": 5}, "background: want a label 0..4"),
        ({"candidates": torch.ones(2, 4, dtype=torch.bool)}, "candidates: want bool"),
        ({"candidates": torch.ones(2, 5)}, "candidates: want bool"),
        ({"logits": torch.zeros(2, 5, 4, 5).long()}, "logits: want float"),
        ({"valid": torch.ones(2, 4, 5)}, "valid: want bool"),
        ({"class_logits": torch.zeros(2, 5, 4, 5)}, "class_logits: want float"),
    ],
)
def test_bad_arguments_are_named(change, said):
    logits, candidates = example()
    arguments = {"logits": logits, "candidates": candidates, **change}
    with pytest.raises(SegmendError, match=said):
        rectification_loss(**arguments)
