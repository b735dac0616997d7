"""Rows of some pixels against plain indexing, however the logits lie in memory."""

import pytest
import torch

from segmend.rectify import rectification_loss
from segmend.rectify.pixels import places_of, repeated, rows_of

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(
        memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    ),
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a cutting": lambda x: torch.nn.functional.pad(x, (0, 2, 1, 0))[..., 1:, :-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rows_and_their_gradient_are_those_of_indexing(layout, size, share):
    torch.manual_seed(0)
    logits = LAYOUTS[layout](torch.randn(2, 3, *size)).requires_grad_()
    mask = torch.rand(2, *size) < share
    rows = rows_of(logits, places_of(mask))
    wanted = logits.movedim(1, -1)[mask]
    assert torch.equal(rows, wanted)
    slopes = torch.randn_like(wanted)
    (found,) = torch.autograd.grad(rows, logits, slopes)
    assert torch.equal(found, torch.autograd.grad(wanted, logits, slopes)[0])


def test_each_pixel_has_the_row_of_its_image():
    table = torch.tensor([[True, False], [False, False], [True, True]])
    mask = torch.tensor([[[True, False]], [[False, False]], [[True, True]]])
    found = repeated(table, places_of(mask))
    assert found.tolist() == [[True, False], [True, True], [True, True]]


@pytest.mark.parametrize("average", ["oc", "all", "every"])
def test_a_batch_without_images_costs_nothing(average):
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = rectification_loss(logits, torch.zeros(0, 3, dtype=torch.bool), average=average)
    loss.backward()
    assert loss == 0
