"""The loss against the published code's values and gradients (golden), and its expectation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend import SegmendError
from segmend.tags.importance import (
    ImportanceSamplingLoss,
    average_pooling_loss,
    importance_sampling_loss,
    sampled_loss,
)

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
BINOMIAL = dict(np.load(GOLDEN_FOLDER / "isl_binomial.npz"))
MULTINOMIAL = dict(np.load(GOLDEN_FOLDER / "isl_multinomial.npz"))
FORMS = ["binomial", "multinomial"]
SAMPLINGS = ["published", "stratified", "exact"]


def golden(values: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits with background first, tags without, drawn pixels as int64."""
    logits = torch.from_numpy(values["logits"]).clone().requires_grad_()
    return logits, torch.from_numpy(values["label"])[:, 1:], torch.from_numpy(values["indices"])


def random_case(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Double logits (N, C, h, w) and tags (N, C)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(shape[:2], generator=generator) > 0.5).double()


def by_definition(logits, tags, form, valid=None):
    """Oracle: the expectation, pixel by pixel in NumPy; binomial, or multinomial without a bg."""
    total, count = 0.0, 0
    for n in range(len(logits)):
        keep = np.ones(logits.shape[2:], bool) if valid is None else valid[n].numpy()
        if not keep.any():
            continue
        z = logits[n].numpy()[:, keep]
        if form == "multinomial":
            p = np.exp(z) / np.exp(z).sum(0)
            weights = p
            q = p * (1 - 1e-3)
            z = np.log(q + 1e-3) - np.log(1 - q)
        else:
            weights = 1 / (1 + np.exp(-z)) + 1e-5
        for c in range(len(z)):
            y = float(tags[n, c])
            losses = y * np.log1p(np.exp(-z[c])) + (1 - y) * np.log1p(np.exp(z[c]))
            total += (weights[c] * losses).sum() / weights[c].sum()
            count += 1
    return total / max(count, 1)


def test_binomial_form_equals_the_published_value_and_gradient():
    logits, tags, indices = golden(BINOMIAL)
    loss = sampled_loss(logits[:, 1:], tags, indices.long())
    assert loss.item() == pytest.approx(float(BINOMIAL["loss_is"]), rel=1e-6)
    loss.backward()
    expected = torch.from_numpy(BINOMIAL["grad_logits_is"])
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-8)


def test_multinomial_form_equals_the_published_value_and_gradient():
    logits, tags, indices = golden(MULTINOMIAL)
    loss = sampled_loss(logits, tags, indices[:, 1:].long(), form="multinomial")
    assert loss.item() == pytest.approx(float(MULTINOMIAL["loss_is"]), rel=1e-6)
    loss.backward()
    expected = torch.from_numpy(MULTINOMIAL["grad_logits_is"])
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-8)


def test_mix_equals_the_published_value_and_gradient():
    logits, tags, indices = golden(BINOMIAL)
    pooled = average_pooling_loss(logits[:, 1:], tags)
    assert pooled.item() == pytest.approx(float(BINOMIAL["loss_gap"]), rel=1e-6)
    mix = 0.8 * pooled + 0.2 * sampled_loss(logits[:, 1:], tags, indices.long())
    assert mix.item() == pytest.approx(float(BINOMIAL["loss_mix"]), rel=1e-6)
    mix.backward()
    expected = torch.from_numpy(BINOMIAL["grad_logits_mix"])
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_module_mixes_pooled_and_sampled_loss(form):
    logits, tags = random_case(0, 2, 3, 4, 5)
    tags = tags[:, 1:] if form == "multinomial" else tags
    loss = ImportanceSamplingLoss(form=form)(
        logits, tags, generator=torch.Generator().manual_seed(5)
    )
    sampled = importance_sampling_loss(
        logits, tags, form=form, generator=torch.Generator().manual_seed(5)
    )
    scores = logits[:, logits.shape[1] - tags.shape[1] :].mean((2, 3))
    pooled = F.multilabel_soft_margin_loss(scores, tags)
    torch.testing.assert_close(loss, 0.8 * pooled + 0.2 * sampled)


@pytest.mark.parametrize(("weight", "finite"), [(0.0, False), (1.0, True)])
def test_module_does_not_compute_the_unused_part(weight, finite):
    logits, tags = random_case(1, 1, 2, 3, 3)
    logits[:, :, 0] = -torch.inf  # never drawn in practice (1e-5 apart); ruins the mean
    module = ImportanceSamplingLoss(weight=weight, num_samples=1)
    loss = module(logits, tags * 0 + 1, generator=torch.Generator().manual_seed(0))
    assert loss.isfinite() == finite


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("valid", [True, False])
@given(seed=st.integers(0, 10**6))
def test_exact_is_the_expectation(form, valid, seed):
    logits, tags = random_case(seed, 2, 3, 4, 3)
    mask = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(seed)) > 0.8
    known = mask if valid else None
    loss = importance_sampling_loss(
        logits, tags, form=form, sampling="exact", background=None, valid=known
    )
    assert loss.item() == pytest.approx(by_definition(logits, tags, form, known), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", ["published", "stratified"])
def test_samples_converge_to_the_exact_value_and_gradient(form, sampling):
    """20,000 draws of 12 pixels: the mean is off by 1 % at most (5 deviations are 0.9 %)."""
    logits, tags = random_case(3, 1, 2, 3, 4)
    grads = []
    for way, number in ((sampling, 20_000), ("exact", 1)):
        scores = logits.clone().requires_grad_()
        loss = importance_sampling_loss(
            scores,
            tags,
            form=form,
            background=None,
            sampling=way,
            num_samples=number,
            generator=torch.Generator().manual_seed(0),
        )
        loss.backward()
        grads.append((loss.detach(), scores.grad))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=0.02, atol=0)
    torch.testing.assert_close(
        grads[0][1], grads[1][1], rtol=0, atol=0.05 * grads[1][1].abs().max()
    )


def test_stratified_draws_are_unbiased_one_by_one():
    """2,000 draws of one sample each: every pixel as often as its weight says (5 deviations)."""
    logits, tags = random_case(4, 1, 1, 2, 3)
    logits = logits.expand(2000, 1, 2, 3).clone().requires_grad_()
    tags = tags.expand(2000, 1)
    loss = importance_sampling_loss(
        logits,
        tags,
        num_samples=1,
        sampling="stratified",
        generator=torch.Generator().manual_seed(0),
    )
    loss.backward()
    drawn = (logits.grad != 0).double().mean(0).flatten()
    weights = torch.sigmoid(logits[0].detach()).flatten() + 1e-5
    share = weights / weights.sum()
    assert ((drawn - share).abs() < 5 * (share * (1 - share) / 2000).sqrt()).all()


def test_stratified_varies_less_than_published_where_neighbours_are_alike():
    logits, tags = random_case(5, 4, 3, 2, 2)
    logits = F.interpolate(logits, size=(16, 16), mode="bilinear")
    generator = torch.Generator().manual_seed(0)
    spread = {}
    for sampling in ("published", "stratified"):
        losses = [
            importance_sampling_loss(logits, tags, sampling=sampling, generator=generator)
            for _ in range(200)
        ]
        spread[sampling] = torch.stack(losses).std()
    assert spread["stratified"] < 0.7 * spread["published"]


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_the_exact_form_leaves_the_weights_alone(form):
    logits, tags = random_case(6, 1, 2, 2, 3)
    fixed = torch.sigmoid(logits) + 1e-5 if form == "binomial" else logits.softmax(1)
    fixed = fixed / fixed.sum((2, 3), keepdim=True)

    def with_fixed_weights(scores):
        if form == "multinomial":
            q = scores.softmax(1) * (1 - 1e-3)
            scores = torch.log(q + 1e-3) - torch.log(1 - q)
        labels = tags[:, :, None, None].expand_as(scores)
        losses = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return (fixed * losses).sum() / tags.numel()

    scores = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(with_fixed_weights, (scores,))
    (expected,) = torch.autograd.grad(with_fixed_weights(scores), scores)
    loss = importance_sampling_loss(scores, tags, form=form, sampling="exact", background=None)
    (found,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@given(seed=st.integers(0, 10**6))
def test_pixels_that_are_not_valid_cannot_matter(form, sampling, seed):
    logits, tags = random_case(seed, 3, 2, 3, 4)
    valid = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(seed)) > 0.7
    results = []
    for fill in (torch.nan, 50.0):
        scores = logits.masked_fill(~valid[:, None], fill).requires_grad_()
        loss = ImportanceSamplingLoss(form=form, sampling=sampling, background=None)(
            scores, tags, valid=valid, generator=torch.Generator().manual_seed(1)
        )
        loss.backward()
        results.append((loss.detach(), scores.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert (results[0][1][~valid[:, None].expand_as(logits)] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_nothing_valid_gives_0_with_a_graph(form, sampling):
    logits, tags = random_case(7, 2, 2, 3, 3)
    logits.requires_grad_()
    module = ImportanceSamplingLoss(form=form, sampling=sampling, background=None)
    loss = module(logits, tags, valid=torch.zeros(2, 3, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_one_pixel_is_plain_cross_entropy(sampling):
    logits, tags = random_case(8, 2, 3, 1, 1)
    loss = importance_sampling_loss(logits, tags, sampling=sampling)
    torch.testing.assert_close(loss, F.multilabel_soft_margin_loss(logits[:, :, 0, 0], tags))


def test_generator_decides_the_draw():
    logits, tags = random_case(9, 2, 3, 5, 5)
    for sampling in ("published", "stratified"):
        same = [
            importance_sampling_loss(
                logits, tags, sampling=sampling, generator=torch.Generator().manual_seed(seed)
            )
            for seed in (1, 1, 2)
        ]
        assert same[0] == same[1] != same[2]


@pytest.mark.parametrize("form", FORMS)
def test_autocast_computes_in_single_precision(form):
    logits, tags = random_case(10, 2, 3, 4, 4)
    logits = logits.bfloat16().requires_grad_()
    module = ImportanceSamplingLoss(form=form, sampling="exact", background=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(logits, tags.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, module(logits.float(), tags.float()))
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_extreme_logits_give_finite_gradients(form, sampling):
    logits = torch.tensor([1e4, -1e4, 0.0, 88.0]).reshape(1, 2, 1, 2).requires_grad_()
    loss = importance_sampling_loss(
        logits, torch.tensor([[1, 0]]), form=form, sampling=sampling, background=None
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


LOGITS, TAGS = torch.zeros(2, 3, 4, 4), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: importance_sampling_loss(LOGITS[0], TAGS), "logits: want float"),
        (lambda: importance_sampling_loss(LOGITS, TAGS[:, :2]), r"tags: want \(2, 3\)"),
        (lambda: importance_sampling_loss(LOGITS, TAGS, num_samples=0), "num_samples: .*got 0"),
        (lambda: importance_sampling_loss(LOGITS, TAGS, sampling="best"), "sampling: .*'best'"),
        (lambda: importance_sampling_loss(LOGITS, TAGS, form="poisson"), "form: .*'poisson'"),
        (lambda: importance_sampling_loss(LOGITS, TAGS, background=3), "background: .*got 3"),
        (lambda: importance_sampling_loss(LOGITS, TAGS, valid=TAGS > 0), "valid: want bool"),
        (lambda: ImportanceSamplingLoss(weight=1.5), r"weight: want a number in \[0, 1\]"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()


def test_stratified_draws_end_inside_however_the_offset_rounds(monkeypatch):
    logits, tags = random_case(11, 1, 2, 2, 3)
    logits, tags = logits.float(), tags.float()
    valid = torch.tensor([[[True, True, False], [True, False, False]]])
    logits[:, :, ~valid[0]] = torch.nan
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full(size, 1 - 2**-24))
    scores = logits.clone().requires_grad_()
    loss = importance_sampling_loss(scores, tags, sampling="stratified", valid=valid)
    loss.backward()
    assert loss.isfinite()
    per_class = scores.grad[0][:, valid[0]]
    expected = (torch.sigmoid(logits) - tags[:, :, None, None])[0][:, valid[0]] / 20
    counts = per_class / expected
    torch.testing.assert_close(counts.sum(1), torch.tensor([10.0, 10.0]))
