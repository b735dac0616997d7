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
    margin_panel,
    strongest_context,
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


def test_margins_stand_where_they_are_in_the_colour_of_their_context():
    margins = torch.tensor([-2.5] * 9 + [-0.5] * 3 + [0.5, 9.0])
    target = torch.tensor([0] * 12 + [1, 0])
    context = torch.tensor([1] * 9 + [0] * 5)
    panel = margin_panel(margins, target, context, span=(-3.0, 1.0), size=(20, 16), bar=4)
    first, second = (torch.tensor(class_colour(k)) for k in (1, 2))
    torch.testing.assert_close(panel[:, :, 0], second.view(3, 1).expand(3, 20))  # the most: full
    white = torch.ones(3)
    for column in (5, 9, 13):  # nothing, less, and the foreground, which is a line
        assert torch.equal(panel[:, 1, column], white)
    assert panel[:, :, 12].unique().tolist() == [0.5]  # the boundary
    height = round(float(torch.tensor(4.0).log() / torch.tensor(10.0).log()) * 20)
    torch.testing.assert_close(panel[:, 20 - height + 1, 9], first)
    assert torch.equal(panel[:, 20 - height - 1, 9], white)
    dark = panel[:, :, 14].amax(0).isclose(torch.tensor(0.1))
    assert dark.any()


def test_a_voxel_is_of_the_context_with_the_highest_logit():
    logits = torch.tensor([[1.0, 9.0, 0.0, 2.0], [3.0, 9.0, 0.0, 2.0], [0.0, 9.0, 4.0, 2.0]])
    sample = LogitSample(logits, torch.zeros(3, dtype=torch.int64), 3)
    assert strongest_context(sample).tolist() == [2, 0, 1]


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
