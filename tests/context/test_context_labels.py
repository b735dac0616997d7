"""Composed labels against the published ones, and what holds for any of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from context_golden import FOLDER, NAMES, Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.context.distance import distance_mask
from segmend.context.labels import (
    average_pool,
    compose_context_labels,
    context_targets,
    min_pool,
    nearest,
)
from segmend.errors import SegmendError


@pytest.mark.parametrize("name", NAMES)
def test_published_labels(name: str) -> None:
    golden = Golden(name)
    found = compose_context_labels(
        golden.target, golden["gen_softmax"], num_classes=2, mask=golden["loss_mask"][:, 0]
    )
    torch.testing.assert_close(found, golden["soft_target"], rtol=1e-6, atol=1e-7)


def test_published_masks_of_levels() -> None:
    with np.load(FOLDER / "colab_distance_mask.npz") as file:
        target = torch.from_numpy(file["seg_3d"].astype(np.int64))[None]
        mask = distance_mask(target, tau=3, sigma=2, truncate=True)
        for level in range(3):
            expected = torch.from_numpy(file[f"mask_3d_sub3_dev2_level{level}"])[None]
            torch.testing.assert_close(min_pool(mask, expected.shape[1:]), expected)


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(2, 3), st.integers(0, 10_000))
def test_what_holds_for_all(classes: int, contexts: int, axes: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    size = (3,) * axes
    target = torch.randint(classes + 1, (2, *size), generator=draw)
    target[target == classes] = 255
    context = torch.randn(2, contexts, *size, generator=draw).softmax(1).requires_grad_()
    mask = torch.randint(3, (2, *size), generator=draw) / 2
    labels = compose_context_labels(target, context, num_classes=classes, mask=mask)
    assert labels.shape == (2, classes + contexts - 1, *size)
    valid = target != 255
    torch.testing.assert_close(labels.sum(1)[valid], torch.ones(int(valid.sum())))
    assert not labels.movedim(1, -1)[~valid].any()
    rows = labels.detach().movedim(1, -1)
    for c in range(1, classes):
        expected = torch.zeros(labels.shape[1]).index_fill_(0, torch.tensor(c), 1.0)
        assert (rows[target == c] == expected).all()
    far = (target == 0) & (mask == 0)
    assert (rows[far] == torch.eye(labels.shape[1])[0]).all()
    near = (target == 0) & (mask == 1)
    order = [0, *range(classes, classes + contexts - 1)]
    torch.testing.assert_close(rows[near][:, order], context.detach().movedim(1, -1)[near])
    (slope,) = torch.autograd.grad(labels.sum(), context)
    expected = (mask * (target == 0)).unsqueeze(1).expand_as(slope).clone()
    expected[:, 0] = (mask * (target == 0)).float()
    torch.testing.assert_close(slope, expected)


def test_one_context_is_the_ordinary_one_hot() -> None:
    target = torch.randint(3, (2, 4, 5))
    labels = compose_context_labels(
        target, torch.ones(2, 1, 4, 5), num_classes=3, mask=torch.rand(2, 4, 5)
    )
    expected = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    torch.testing.assert_close(labels, expected)


def test_levels_are_pooled() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 2:, 2:] = 1
    target[0, 0, 3] = 255
    context = torch.rand(1, 2, 4, 4).softmax(1)
    mask = torch.ones(1, 4, 4)
    mask[0, 3, 0] = 0.25
    labels, valid = context_targets(target, context, [(4, 4), (2, 2)], num_classes=2, mask=mask)
    cell = context[0, :, 2:, :2].mean((1, 2)) * 0.25
    torch.testing.assert_close(
        labels[1][0, :, 1, 0], torch.stack([cell[0] + 0.75, torch.tensor(0.0), cell[1]])
    )
    assert labels[1][0, :, 1, 1].tolist() == [0, 1, 0]
    assert valid[0].sum() == 15


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_any_level_size(height: int, width: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    size = [int(torch.randint(1, n + 1, (1,), generator=draw)) for n in (height, width)]
    x = torch.rand(1, 2, height, width, generator=draw)
    labels = torch.randint(3, (1, height, width), generator=draw)
    assert average_pool(x, size).shape == (1, 2, *size)
    assert min_pool(x[:, 0], size).shape == (1, *size)
    assert nearest(labels, size).shape == (1, *size)
    assert float(average_pool(x, size).max()) <= float(x.max()) + 1e-6


def test_input_that_cannot_be() -> None:
    target, context = torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(1, 2, 4, 4) / 2
    with pytest.raises(SegmendError, match="num_classes >= 2"):
        compose_context_labels(target, context, num_classes=1)
    with pytest.raises(SegmendError, match="same size"):
        compose_context_labels(target, context[..., :3], num_classes=2)
    with pytest.raises(SegmendError, match="mask"):
        compose_context_labels(target, context, num_classes=2, mask=torch.ones(4, 4))
    with pytest.raises(SegmendError, match="got 2"):
        compose_context_labels(target + 2, context, num_classes=2)
