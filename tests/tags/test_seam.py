"""SEAM's losses against NumPy loops and the authors' own values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.seam import cross_loss, equivariance_loss, min_pooling_loss, seam_losses

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = ("cam1", "cam2", "cam_rv1", "cam_rv2")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "seam_losses.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def views(golden):
    """The four inputs as leaves, and the tags."""
    leaves = [golden[name].clone().requires_grad_() for name in INPUTS]
    return leaves, golden["label_with_bg"][:, 1:]


def losses_of(leaves, tags, **options):
    logits = (leaves[0][:, 1:], leaves[1][:, 1:])
    return seam_losses(logits, (leaves[2], leaves[3]), tags, **options)


@st.composite
def cases(draw):
    """(maps (N, 1 + C, h, w), other, tags (N, C)); an image may have no tag."""
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shape = (batch, 1 + classes, draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    maps, other = (torch.from_numpy(generator.random(shape)) for _ in range(2))
    return maps, other, torch.from_numpy(generator.integers(0, 2, (batch, classes)))


def test_published_losses_and_gradients(golden, views):
    leaves, tags = views
    losses = losses_of(leaves, tags)
    wanted = {
        "classification": (golden["loss_cls1"] + golden["loss_cls2"]) / 2,
        "min_pooling": (golden["loss_rvmin1"] + golden["loss_rvmin2"]) / 2,
        "equivariance": golden["loss_er"],
        "cross": golden["loss_ecr"],
        "total": golden["loss"],
    }
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(losses, name), value, rtol=1e-4, atol=1e-6)
    losses.total.backward()
    for leaf, name in zip(leaves, INPUTS, strict=True):
        torch.testing.assert_close(leaf.grad, golden[f"grad_{name}"], rtol=1e-4, atol=1e-6)
        assert torch.equal(leaf.detach(), golden[name])  # nothing is hardened in place


@pytest.mark.parametrize(
    ("term", "name"), [("equivariance", "er"), ("cross", "ecr1"), ("cross", "ecr2")]
)
def test_gradient_reaches_the_views_that_it_reached(golden, views, term, name):
    leaves, tags = views
    getattr(losses_of(leaves, tags), term).backward()
    for leaf, other in zip(leaves, INPUTS, strict=True):
        if golden[f"has_grad_loss_{name}_{other}"]:
            assert leaf.grad.any()
        elif term == "equivariance" or other in ("cam1", "cam2"):
            assert leaf.grad is None or not leaf.grad.any()


def test_full_view_loss_replaces_the_first_half_of_the_classification(golden, views):
    losses = losses_of(*views, full_view_loss=torch.tensor(3.0))
    torch.testing.assert_close(losses.classification, (3 + golden["loss_cls2"]) / 2)


def difference(maps, other, tags):
    """Oracle: |maps - other| with untagged classes at 0, in NumPy."""
    apart = np.abs(maps.numpy() - other.numpy())
    apart[:, apart.shape[1] - tags.shape[1] :][tags.numpy() == 0] = 0
    return apart


@given(cases())
def test_equivariance_by_definition(case):
    maps, other, tags = case
    apart = difference(maps[:, 1:], other[:, 1:], tags)
    found = equivariance_loss(maps[:, 1:], other[:, 1:], tags)
    assert found.item() == pytest.approx(apart.mean())
    present = apart[tags.numpy() == 1]
    found = equivariance_loss(maps[:, 1:], other[:, 1:], tags, normalise="present")
    assert found.item() == pytest.approx(present.mean() if present.size else 0)


@given(cases(), st.sampled_from(["all", "present"]))
def test_cross_loss_by_definition(case, normalise):
    maps, other, tags = case
    hard = other.numpy().copy()
    hard[:, 1:][hard[:, 1:] != hard[:, 1:].max(1, keepdims=True)] = 0
    apart = difference(maps, torch.from_numpy(hard), tags)
    means = []
    for each, present in zip(apart, tags.numpy(), strict=True):
        channels = len(each) if normalise == "all" else 1 + present.sum()
        count = max(1, int(channels * each[0].size * 0.2 + 1e-9))
        means.append(np.sort(each.ravel())[::-1][:count].mean())
    assert cross_loss(maps, other, tags, normalise=normalise).item() == pytest.approx(
        np.mean(means)
    )


@given(cases())
def test_present_classes_alone_count_the_same_however_many_are_known(case):
    maps, other, _ = case
    tags = torch.ones(len(maps), maps.shape[1] - 1)
    more = torch.zeros(len(maps), 3, *maps.shape[2:], dtype=maps.dtype)
    wide = [torch.cat([each, more], 1) for each in (maps, other)]
    wide_tags = torch.cat([tags, torch.zeros(len(maps), 3)], 1)
    for loss, skip in ((equivariance_loss, 1), (cross_loss, 0)):
        few = loss(maps[:, skip:], other[:, skip:], tags, normalise="present")
        many = loss(wide[0][:, skip:], wide[1][:, skip:], wide_tags, normalise="present")
        torch.testing.assert_close(few, many)


@given(cases())
def test_min_pooling_by_definition(case):
    maps, _, tags = case
    maps = maps - 0.2
    wanted = []
    for each, present in zip(maps[:, 1:].numpy(), tags.numpy(), strict=True):
        strongest = np.sort((each * present[:, None, None]).max(0).ravel())
        wanted.append(np.maximum(strongest[: max(1, strongest.size // 4)], 0).mean())
    assert min_pooling_loss(maps, tags).item() == pytest.approx(np.mean(wanted))


@given(cases(), st.sampled_from(["all", "present"]), st.integers(0, 2), st.integers(0, 2))
def test_padding_cannot_matter(case, normalise, below, right):
    maps, other, tags = case
    _, _, height, width = maps.shape
    pad = (0, right, 0, below)
    framed, framed_other = (F.pad(each, pad, value=torch.nan) for each in (maps, other))
    valid = F.pad(torch.ones(len(maps), height, width, dtype=torch.bool), pad)
    framed.requires_grad_()
    losses = [
        equivariance_loss(framed[:, 1:], framed_other[:, 1:], tags, valid, normalise=normalise),
        cross_loss(framed, framed_other, tags, valid, normalise=normalise),
        min_pooling_loss(framed, tags, valid),
    ]
    wanted = [
        equivariance_loss(maps[:, 1:], other[:, 1:], tags, normalise=normalise),
        cross_loss(maps, other, tags, normalise=normalise),
        min_pooling_loss(maps, tags),
    ]
    torch.testing.assert_close(torch.stack(losses), torch.stack(wanted))
    sum(losses).backward()
    assert framed.grad.isfinite().all()
    assert not framed.grad[:, :, height:].any()
    assert not framed.grad[..., width:].any()


def test_padded_views_give_finite_gradients(golden, views):
    _, tags = views
    valid = [torch.ones(2, side, side, dtype=torch.bool) for side in (40, 12)]
    valid[0][0, 30:], valid[1][0, 9:] = False, False
    valid[0][1], valid[1][1] = False, False  # nothing of the second image
    insides = [valid[0], valid[1], valid[0], valid[1]]
    leaves = [
        golden[name].masked_fill(~inside.unsqueeze(1), torch.nan).requires_grad_()
        for name, inside in zip(INPUTS, insides, strict=True)
    ]
    for normalise in ("all", "present"):
        losses = losses_of(leaves, tags, valid=(valid[0], valid[1]), normalise=normalise)
        losses.total.backward()
        assert losses.total.isfinite()
    for leaf, inside in zip(leaves, insides, strict=True):
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()
        assert not leaf.grad.movedim(1, -1)[~inside].any()
    everything = (torch.ones_like(valid[0]), torch.ones_like(valid[1]))
    same = losses_of(views[0], tags, valid=everything)
    torch.testing.assert_close(tuple(same), tuple(losses_of(views[0], tags)))


def test_no_tags_at_all_is_finite_with_a_gradient(golden, views):
    leaves, tags = views
    for normalise in ("all", "present"):
        total = losses_of(leaves, torch.zeros_like(tags), normalise=normalise).total
        total.backward()
        assert total.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


MAPS, TAGS = torch.zeros(2, 3, 4, 4), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equivariance_loss(MAPS, MAPS[..., 1:], TAGS), "other: want the shape"),
        (lambda: equivariance_loss(MAPS, MAPS, TAGS, normalise="no"), "normalise: want one of"),
        (lambda: cross_loss(MAPS, MAPS, TAGS[:, 1:], share=0), "share: want above 0"),
        (lambda: cross_loss(MAPS, MAPS, TAGS), r"tags: want \(2, 2\)"),
        (lambda: min_pooling_loss(MAPS[0], TAGS), "revised: want float"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
