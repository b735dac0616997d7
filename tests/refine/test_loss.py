"""The losses against the original's values and gradients (golden), and against pixel loops."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.refine.loss import (
    PatchRefineLoss,
    edge_loss,
    focal_loss,
    patch_refine_loss,
    region_specific_loss,
    regularisation_loss,
)
from segmend.refine.network import RefinedLogits

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "prn_losses.npz"))
PARTS = {
    "focal": (focal_loss, "y_rst"),
    "edge": (edge_loss, "y_rst"),
    "rst": (region_specific_loss, "y_rst"),
    "reg": (regularisation_loss, "y_orig"),
}
ORDERS = {"intended": "intended", "repo": "swapped"}
LOSSES = [focal_loss, edge_loss, region_specific_loss, regularisation_loss]


def predictions(which: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[f"pred_{which}"]).to(dtype).requires_grad_()


def labels(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def golden_gradient(stem: str, part: str, which: str) -> torch.Tensor:
    name = f"{stem}_grad_{part}_{which}"
    return torch.from_numpy(GOLDEN.get(f"{name}_clamped", GOLDEN.get(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["global", "local"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("stem", ORDERS)
def test_parts_equal_the_original(stem, part, which, dtype):
    loss, target = PARTS[part]
    probs = predictions(which, dtype)
    value = loss(probs.logit(), labels(target), argument_order=ORDERS[stem])
    rel = 1e-4 if dtype == torch.float32 else 1e-7
    assert value.item() == pytest.approx(float(GOLDEN[f"{stem}_{part}_{which}_f64"]), rel=rel)
    value.backward()
    torch.testing.assert_close(
        probs.grad.float(), golden_gradient(stem, part, which), rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("stem", ORDERS)
def test_total_equals_the_original(stem):
    both = [predictions(which, torch.float64) for which in ("global", "local")]
    refined = RefinedLogits(*(probs.logit() for probs in both))
    options = {"argument_order": ORDERS[stem]}
    total = patch_refine_loss(refined, labels("y_rst"), labels("y_orig"), **options)
    assert total.item() == pytest.approx(float(GOLDEN[f"{stem}_total_f64"]), rel=1e-7)
    total.backward()
    for probs, which in zip(both, ("global", "local"), strict=True):
        wanted = golden_gradient(stem, "total", which)
        torch.testing.assert_close(probs.grad.float(), wanted, rtol=1e-3, atol=1e-7)
    alone = RefinedLogits(refined.global_, None)
    total = patch_refine_loss(alone, labels("y_rst"), labels("y_orig"), **options)
    assert total.item() == pytest.approx(float(GOLDEN[f"{stem}_total_p0_f64"]), rel=1e-7)


def by_definition(probs, truth, valid):
    """(focal, edge, regularisation) in plain Python, over the pixels that count."""
    height, width = valid.shape

    def step(values, y, x):
        total = 8 * values[y][x]
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            if (dy, dx) != (0, 0) and 0 <= y + dy < height and 0 <= x + dx < width:
                total -= values[y + dy][x + dx]
        return max(math.tanh(total), 0.0)

    def cross_entropy(p, t):
        logs = [max(math.log(v), -100) if v > 0 else -100 for v in (p, 1 - p)]
        return -(t * logs[0] + (1 - t) * logs[1])

    focal, edge, regularisation = [], [], []
    for y, x in itertools.product(range(height), range(width)):
        p, t = probs[y][x], truth[y][x]
        if valid[y, x]:
            bce = cross_entropy(p, t)
            focal.append(0.75 * (1 - math.exp(-bce)) ** 2 * bce)
            regularisation.append(-1.12 * t * math.log(p) - (1 - t) * math.log(1 - p))
        if valid[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].all():
            edge.append(cross_entropy(step(probs, y, x), step(truth, y, x)))
    return [sum(v) / max(len(v), 1) for v in (focal, edge, regularisation)]


@st.composite
def maps(draw):
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = 3 * torch.randn(1, 1, height, width, generator=generator, dtype=torch.float64)
    truth = torch.randint(0, 2, (1, height, width), generator=generator)
    share = draw(st.sampled_from([0.0, 0.8, 1.0]))
    return logits, truth, torch.rand(1, height, width, generator=generator) < share


@given(maps())
def test_valid_pixels_alone_count(case):
    logits, truth, valid = case
    expected = by_definition(logits[0, 0].sigmoid().tolist(), truth[0].tolist(), valid[0].numpy())
    logits = logits.masked_fill(~valid[:, None], torch.nan).requires_grad_()
    truth = truth.masked_fill(~valid, 255)
    for loss, value in zip((focal_loss, edge_loss, regularisation_loss), expected, strict=True):
        found = loss(logits, truth, valid)
        assert found.item() == pytest.approx(value, rel=1e-9)
        (gradient,) = torch.autograd.grad(found, logits)
        assert gradient.isfinite().all()
        assert (gradient[~valid[:, None]] == 0).all()


@pytest.mark.parametrize("order", ["intended", "swapped"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_at_certainty_are_finite(loss, order):
    logits = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4]).reshape(1, 1, 1, 5).requires_grad_()
    for value in (0, 1):
        result = loss(logits, torch.full((1, 1, 5), value), argument_order=order)
        assert result.isfinite()
        (gradient,) = torch.autograd.grad(result, logits)
        assert gradient.isfinite().all()


def test_certain_and_wrong_still_learns():
    logits = torch.full((1, 1, 2, 2), -200.0, requires_grad=True)
    regularisation_loss(logits, torch.ones(1, 2, 2)).backward()
    torch.testing.assert_close(logits.grad, torch.full((1, 1, 2, 2), -1.12 / 4))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_and_autocast_compute_in_float32(loss):
    logits, truth = torch.randn(1, 1, 6, 6), torch.randint(0, 2, (1, 6, 6))
    expected = loss(logits.bfloat16().float(), truth)
    assert loss(logits.bfloat16(), truth).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits.bfloat16(), truth), expected)


def test_module_ignores_each_target_where_it_says_so():
    generator = torch.Generator().manual_seed(1)
    refined = RefinedLogits(*torch.randn(2, 2, 1, 7, 7, generator=generator).unbind(0))
    pseudo = torch.randint(0, 2, (2, 7, 7), generator=generator)
    target = torch.randint(0, 2, (2, 7, 7), generator=generator)
    pseudo[0, 0, 0], target[1, 3, 3] = 9, 9
    found = PatchRefineLoss(ignore_index=9, pseudo_label_weight=0.25)(refined, pseudo, target)
    parts = [
        0.25 * region_specific_loss(logits, pseudo, pseudo != 9)
        + 0.75 * regularisation_loss(logits, target, target != 9)
        for logits in refined
    ]
    torch.testing.assert_close(found, sum(parts) / 2)


LOGITS, LABELS = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((LOGITS[0], LABELS), {}, r"logits: want float \(N, C, H, W\), got torch\.float32 \(1, 4"),
        ((LOGITS.long(), LABELS), {}, r"logits: want float .* got torch\.int64"),
        ((LOGITS, LABELS[:, 1:]), {}, r"labels: want the shape .* got \(1, 1, 3, 4\)"),
        ((LOGITS.expand(1, 2, 4, 4), LABELS), {}, "labels: want the shape"),
        ((LOGITS, LABELS, LABELS), {}, r"valid: want torch\.bool .* got torch\.float32"),
        ((LOGITS, LABELS), {"argument_order": "published"}, "want 'intended' or 'swapped'"),
    ],
)
def test_errors_name_the_argument_and_what_came(loss, arguments, options, message):
    with pytest.raises(SegmendError, match=message):
        loss(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pseudo_label_weight": 1.5}, r"want a number in \[0, 1\], got 1.5"),
        ({"argument_order": "x"}, "argument_order"),
    ],
)
def test_module_checks_its_options(options, message):
    with pytest.raises(SegmendError, match=message):
        PatchRefineLoss(**options)
