"""Oracles: torch's own losses on the valid pixels alone, and Dice in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.engine.losses import segmentation_loss
from segmend.errors import SegmendError


@st.composite
def batches(draw, channels: int):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    logits = torch.randn(shape[0], channels, *shape[1:], generator=rng) * 3
    target = torch.randint(0, max(channels, 2), shape, generator=rng)
    ignored = torch.rand(shape, generator=rng) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return logits, target.masked_fill(ignored, 255)


def loss_of(logits, target, loss):
    return segmentation_loss(logits, target, loss=loss, ignore_index=255)


@given(batches(channels=3))
def test_ce_is_torchs(case):
    logits, target = case
    if (target == 255).all():
        assert loss_of(*case, "ce") == 0
        return
    torch.testing.assert_close(
        loss_of(*case, "ce"), F.cross_entropy(logits, target, ignore_index=255)
    )


@given(batches(channels=1))
def test_bce_and_dice_by_definition(case):
    logits, target = case
    pairs = [
        (float(z), int(t))
        for z, t in zip(logits.flatten(), target.flatten(), strict=True)
        if t != 255
    ]
    probs = [float(torch.tensor(z).sigmoid()) for z, _ in pairs]
    both = sum(p for p, (_, t) in zip(probs, pairs, strict=True) if t == 1)
    dice = 1 - (2 * both + 1) / (sum(probs) + sum(t for _, t in pairs) + 1)
    bce = 0.0
    if pairs:
        z, t = (torch.tensor(x, dtype=torch.float32) for x in zip(*pairs, strict=True))
        bce = float(F.binary_cross_entropy_with_logits(z, t))
    assert float(loss_of(*case, "bce")) == pytest.approx(bce, abs=1e-5)
    assert float(loss_of(*case, "bce+dice")) == pytest.approx(bce + 0.5 * dice, abs=1e-5)


@pytest.mark.parametrize(("loss", "channels"), [("bce", 1), ("bce+dice", 1), ("ce", 3)])
def test_nan_in_ignored_pixels_is_in_neither_loss_nor_gradient(loss, channels):
    logits = torch.randn(2, channels, 4, 4)
    target = torch.randint(0, 2, (2, 4, 4))
    target[:, 1] = 255
    spoilt = logits.clone()
    spoilt[:, :, 1] = torch.nan
    spoilt.requires_grad_()
    value = loss_of(spoilt, target, loss)
    assert value.item() == loss_of(logits, target, loss).item()
    value.backward()
    assert spoilt.grad.isfinite().all()
    assert (spoilt.grad[:, :, 1] == 0).all()


@pytest.mark.parametrize(("loss", "channels"), [("bce+dice", 1), ("ce", 3)])
def test_gradient(loss, channels):
    logits = torch.randn(1, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0, 1, 255], [1, 1, 0], [255, 0, 1]]])
    value = loss_of(logits, target, loss)
    value.backward()
    for index in [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 0, 2)]:
        bumped = logits.detach().clone()
        bumped[index] += 1e-2
        slope = (loss_of(bumped, target, loss) - value.detach()).item() / 1e-2
        assert logits.grad[index].item() == pytest.approx(slope, abs=2e-3)


def test_sizes_that_differ():
    with pytest.raises(SegmendError, match=r"target: want .* got \(1, 2, 2\)"):
        loss_of(torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 2, dtype=torch.long), "bce")
