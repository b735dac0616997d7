"""Pictures of contexts and logits: colours where they belong."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from segmend.context.pictures import (
    ContextPicture,
    LogitSample,
    context_overlay,
    draw_contexts,
    draw_logits,
    grey,
    logit_panel,
)
from segmend.errors import SegmendError
from segmend.plot import class_colour


def width(path):
    with Image.open(path) as picture:
        return picture.width


def test_contexts_are_mixed_by_their_shares():
    context = torch.tensor([[[1.0, 0.5, 0.3, 0.3]], [[0.0, 0.5, 0.7, 0.7]]])
    found = context_overlay(context, torch.tensor([[0, 0, 1, 255]]))
    first, second = (torch.tensor(class_colour(k)) for k in (1, 2))
    torch.testing.assert_close(found[:, 0, 0], first)
    torch.testing.assert_close(found[:, 0, 1], (first + second) / 2)
    assert found[:, 0, 2].tolist() == [1, 1, 1]
    assert found[:, 0, 3].tolist() == [0, 0, 0]


def test_voxels_lie_where_their_logits_say():
    pairs = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])  # foreground wins; background wins
    panel = logit_panel(pairs, torch.tensor([1, 0]), reach=2.0, side=8)
    assert panel[:, 1, 2].argmax() == 1  # up and left: the green of a target
    assert panel[:, 5, 6].argmax() == 0  # down and right: the orange of background
    assert panel[:, 0, 0].tolist() == [1, 1, 1]
    assert panel[:, 7, 0].unique().tolist() == pytest.approx([0.2])  # the diagonal


@pytest.mark.parametrize("size", [(20, 16), (12, 10, 8)])
def test_sheets_are_written(tmp_path, size):
    target = torch.zeros(size, dtype=torch.int64)
    target[3:6, 3:6] = 1
    row = ContextPicture("a", torch.randn(1, *size), target, torch.rand(2, *size),
                         torch.rand(size))  # fmt: skip
    path = draw_contexts([row], tmp_path / "x" / "contexts.png")
    assert width(path) > (1000 if len(size) == 2 else 1300)
    sample = LogitSample(torch.randn(50, 3), torch.arange(50) % 2, 2)
    path = draw_logits({"plain": sample, "learned": sample}, tmp_path / "logits.png")
    assert width(path) > 500
    with pytest.raises(SegmendError, match="at least one row"):
        draw_contexts([], path)


def test_errors_are_those_at_the_threshold(tmp_path):
    target = torch.zeros(16, 16, dtype=torch.int64)
    target[4:12, 4:12] = 1
    foreground = torch.where(target == 1, 0.4, 0.1)
    image, context = torch.rand(3, 16, 16), torch.rand(2, 16, 16)

    def sheet(threshold):
        row = ContextPicture("a", image, target, context, foreground, threshold)
        with Image.open(draw_contexts([row], tmp_path / f"{threshold}.png")) as picture:
            return picture.convert("RGB").tobytes()

    assert sheet(0.5) == sheet(0.45)  # all missed
    assert sheet(0.5) != sheet(0.3)  # all found


def test_pictures_of_any_scale_are_stretched():
    picture = torch.rand(3, 4, 5)
    assert torch.equal(grey(picture), picture)
    found = grey(torch.randn(1, 30, 30) * 500)
    assert found.shape == (3, 30, 30)
    assert (found.min(), found.max()) == (0, 1)
