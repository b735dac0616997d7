"""Pixel correlation against loops over pixels and the authors' own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.pixel_correlation import (
    PixelCorrelation,
    correlation_input,
    harden,
    pixel_correlation,
    with_background,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "seam_pcm.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def module(golden):
    module = PixelCorrelation(10, 14, widths=(8, 12, 16))
    names = {"middle": "f8_3", "late": "f8_4", "union": "f9"}
    state = {f"{ours}.weight": golden[f"w.{theirs}.weight"] for ours, theirs in names.items()}
    module.load_state_dict(state)
    return module


@st.composite
def cases(draw):
    sides = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    cams = torch.rand(2, 3, *sides, generator=generator, dtype=torch.float64)
    features = torch.randn(2, 4, *sides, generator=generator, dtype=torch.float64)
    return cams, features


@given(cases())
def test_agrees_with_loops(case):
    cams, features = case
    revised = pixel_correlation(cams, features)
    places = list(np.ndindex(cams.shape[2:]))
    for n in range(len(cams)):
        units = {p: features[(n, slice(None), *p)].numpy() for p in places}
        units = {p: u / (np.linalg.norm(u) + 1e-5) for p, u in units.items()}
        for p in places:
            alike = {q: max(0.0, float(units[p] @ units[q])) for q in places}
            total = sum(alike.values()) + 1e-5
            for k in range(cams.shape[1]):
                wanted = sum(alike[q] * float(cams[(n, k, *q)]) for q in places) / total
                assert revised[(n, k, *p)].item() == pytest.approx(wanted)


def test_published_module(golden, module):
    logits = golden["cam_logits"][:, 1:]
    torch.testing.assert_close(
        correlation_input(logits), golden["pcm_in_cam"], rtol=1e-4, atol=1e-6
    )
    revised = module(logits, golden["x_lowres"], golden["conv4"], golden["conv5"])
    torch.testing.assert_close(revised, golden["pcm_out"], rtol=1e-4, atol=1e-6)
    (revised * golden["grad_seed"]).sum().backward()
    wanted = golden["grad_f9"]
    torch.testing.assert_close(module.union.weight.grad, wanted, rtol=1e-4, atol=1e-5)


def test_published_gradient_and_resizing(golden, module):
    features = golden["pcm_in_feat"].clone().requires_grad_()
    revised = pixel_correlation(golden["pcm_in_cam"], module.union(features))
    (revised * golden["grad_seed"]).sum().backward()
    torch.testing.assert_close(features.grad, golden["grad_feat"], rtol=1e-3, atol=1e-6)
    small = pixel_correlation(golden["cam_small"], module.union(golden["pcm_in_feat"]))
    torch.testing.assert_close(small, golden["pcm_out_cam_small"], rtol=1e-4, atol=1e-6)


def test_only_the_projections_learn():
    module = PixelCorrelation(4, 5, widths=(3, 3, 6))
    inputs = [torch.rand(1, c, 4, 4, requires_grad=True) for c in (2, 3, 4, 5)]
    module(*inputs).square().sum().backward()
    assert all(maps.grad is None for i, maps in enumerate(inputs) if i != 1)
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@given(cases(), st.integers(0, 2), st.integers(0, 2))
def test_padding_cannot_matter(case, below, right):
    cams, features = case
    _, _, height, width = cams.shape
    pad = (0, right, 0, below)
    valid = F.pad(torch.ones(2, height, width, dtype=torch.bool), pad)
    framed, framed_features = (F.pad(each, pad, value=torch.nan) for each in case)
    framed_features.requires_grad_()
    revised = pixel_correlation(framed, framed_features, valid)
    torch.testing.assert_close(revised[:, :, :height, :width], pixel_correlation(cams, features))
    assert not revised.movedim(1, -1)[~valid].any()
    revised.sum().backward()
    assert framed_features.grad.isfinite().all()
    inside = correlation_input(framed - 0.5, valid)[:, :, :height, :width]
    torch.testing.assert_close(inside, correlation_input(cams - 0.5))


def test_harden_keeps_the_strongest_class_and_its_argument():
    cams = with_background(torch.tensor([0.5, 0.2, 0.5]).reshape(1, 3, 1, 1))
    before = cams.clone()
    assert harden(cams).flatten().tolist() == [0.5, 0.5, 0.0, 0.5]
    assert torch.equal(cams, before)


def test_equal_features_give_the_mean_everywhere():
    cams = torch.rand(1, 2, 3, 4)
    revised = pixel_correlation(cams, torch.ones(1, 5, 3, 4))
    torch.testing.assert_close(
        revised, cams.mean((2, 3), keepdim=True).expand_as(cams), rtol=1e-4, atol=0
    )


def test_defaults_are_those_published():
    module = PixelCorrelation()
    shapes = [tuple(p.shape) for p in module.parameters()]
    assert shapes == [(64, 512, 1, 1), (128, 1024, 1, 1), (192, 195, 1, 1)]


@pytest.mark.parametrize(
    ("cams", "features"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2, 3, 3, 3)),
        (torch.zeros(1, 2, 3, 3), torch.zeros(2, 2, 3, 3)),
    ],
)
def test_errors_say_what_was_wanted(cams, features):
    with pytest.raises(SegmendError, match=r"pixel_correlation: want cams \(N, K"):
        pixel_correlation(cams, features)
