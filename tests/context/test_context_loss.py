"""Losses against the published values and against torch's own, and pixels that do not count."""

from __future__ import annotations

import pytest
import torch
from context_golden import NAMES, Golden, flatten, relative
from torch.nn import functional as F

from segmend.context.labels import compose_context_labels
from segmend.context.loss import context_loss, level_weights, meta_objective
from segmend.errors import SegmendError


@pytest.mark.parametrize("end", ["", ".f64"])
@pytest.mark.parametrize("name", NAMES)
def test_published_losses(name: str, end: str) -> None:
    golden = Golden(name)
    dtype = torch.float64 if end else torch.float32
    network, images = golden.network("seg", dtype), golden["x"].to(dtype)
    context = golden.network("gen", dtype)(images).softmax(1).detach()
    labels = compose_context_labels(
        golden.target, context, num_classes=2, mask=golden["loss_mask"][:, 0].to(dtype)
    )
    logits = network(images)
    loss = context_loss(logits, labels, num_classes=2)
    close = {"rtol": 1e-6, "atol": 2e-7}  # the mask is stored in float32
    torch.testing.assert_close(loss, golden[f"loss_train_inner{end}"], **close)
    torch.testing.assert_close(
        context_loss(logits, labels, num_classes=2, dice="none"),
        golden[f"loss_ce_only{end}"],
        **close,
    )
    real = context_loss(
        logits, labels, num_classes=2, dice="foreground" if "nods" in name else "published"
    )
    torch.testing.assert_close(real, golden[f"loss_train_detach{end}"], **close)
    if not end:
        for value, key in ((loss, "grad_inner"), (real, "grad_detach")):
            slope = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
            assert relative(flatten(slope), golden.flat(f"{key}.seg")) < 1e-6


def test_one_context_is_the_ordinary_loss() -> None:
    logits, target = torch.randn(2, 3, 6, 5), torch.randint(3, (2, 6, 5))
    labels = compose_context_labels(target, torch.ones(2, 1, 6, 5), num_classes=3)
    torch.testing.assert_close(
        context_loss(logits, labels, num_classes=3, dice="none"), F.cross_entropy(logits, target)
    )
    published = context_loss(logits, labels, num_classes=3)
    assert torch.equal(published, context_loss(logits, labels, num_classes=3, dice="foreground"))
    probs, truth = logits.softmax(1)[:, 1:], labels[:, 1:]
    dice = 2 * (probs * truth).sum((2, 3)) / (probs.sum((2, 3)) + truth.sum((2, 3)))
    expected = F.cross_entropy(logits, target) - dice.mean()
    torch.testing.assert_close(published, expected, rtol=1e-4, atol=1e-5)


def test_meta_objective_is_binary_cross_entropy() -> None:
    logits, target = torch.randn(2, 4, 6, 5), torch.randint(3, (2, 6, 5))
    probs = logits.softmax(1)
    expected = sum(F.binary_cross_entropy(probs[:, c], (target == c).float()) for c in (1, 2))
    found = meta_objective(logits, target, num_classes=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dice", ["published", "foreground", "none"])
def test_ignored_pixels_are_in_no_sum_and_no_count(dice: str) -> None:
    target = torch.randint(2, (1, 4, 6))
    context = torch.rand(1, 2, 4, 6).softmax(1)
    logits = torch.randn(1, 3, 4, 6)
    part = compose_context_labels(target[..., :4], context[..., :4], num_classes=2)
    expected = context_loss(logits[..., :4], part, num_classes=2, dice=dice)  # type: ignore[arg-type]
    judged = meta_objective(logits[..., :4], target[..., :4])
    target[..., 4:] = 255
    logits[..., 4:] = torch.nan
    logits.requires_grad_()
    labels = compose_context_labels(target, context, num_classes=2)
    found = context_loss(logits, labels, target != 255, num_classes=2, dice=dice)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(meta_objective(logits, target), judged)
    (slope,) = torch.autograd.grad(found + meta_objective(logits, target), logits)
    assert slope.isfinite().all()
    assert not slope[..., 4:].any()


def test_nothing_valid() -> None:
    target = torch.full((1, 3, 3), 255)
    labels = compose_context_labels(target, torch.ones(1, 2, 3, 3) / 2, num_classes=2)
    logits = torch.randn(1, 3, 3, 3, requires_grad=True)
    loss = context_loss(logits, labels, target != 255, num_classes=2)
    loss = loss + meta_objective(logits, target)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert not slope.any()


def test_levels_are_weighted() -> None:
    assert level_weights(1) == (1.0,)
    assert level_weights(4) == pytest.approx((1 / 1.75, 0.5 / 1.75, 0.25 / 1.75, 0))
    levels = [torch.randn(1, 3, n, n) for n in (8, 4, 2)]
    labels = [torch.rand(1, 3, n, n).softmax(1) for n in (8, 4, 2)]
    each = [context_loss(z, y, num_classes=2) for z, y in zip(levels, labels, strict=True)]
    levels[2] = levels[2] * torch.nan  # its weight is 0
    found = context_loss(levels, labels, num_classes=2)
    torch.testing.assert_close(found, each[0] * 2 / 3 + each[1] / 3)


def test_half_precision_is_summed_in_float32() -> None:
    logits, labels = torch.randn(1, 3, 64, 64), torch.rand(1, 3, 64, 64).softmax(1)
    found = context_loss(logits.bfloat16(), labels.bfloat16(), num_classes=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, context_loss(logits, labels, num_classes=2), rtol=1e-2, atol=0
    )


def test_input_that_cannot_be() -> None:
    z = torch.zeros(1, 3, 4, 4)
    with pytest.raises(SegmendError, match="logits and labels"):
        context_loss(z, z[:, :2], num_classes=2)
    with pytest.raises(SegmendError, match="one entry a level"):
        context_loss([z, z], [z], num_classes=2)
    with pytest.raises(SegmendError, match="dice"):
        context_loss(z, z, num_classes=2, dice="all")  # type: ignore[arg-type]
    with pytest.raises(SegmendError, match="not 0"):
        context_loss(z, z, num_classes=2, weights=(0.0,))
    with pytest.raises(SegmendError, match="meta-objective"):
        meta_objective(z, torch.zeros(1, 4, 3, dtype=torch.long))
    with pytest.raises(SegmendError, match="levels"):
        level_weights(0)
