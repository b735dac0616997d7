"""Pictures: the colours say what the masks say, and odd shapes do not break them."""

import pytest
import torch

from segmend import SegmendError
from segmend.plot import FALSE_NEGATIVE, FALSE_POSITIVE, HIT, PANEL, Row, error_overlay, sheet


def nearest_colour(pixel):
    colours = torch.tensor([HIT, FALSE_POSITIVE, FALSE_NEGATIVE]) / 255
    return int((colours - pixel).norm(dim=1).argmin())


def test_every_kind_of_pixel_has_its_colour():
    image = torch.full((3, 1, 4), 0.5)
    prediction = torch.tensor([[1, 1, 0, 0]])
    target = torch.tensor([[1, 0, 1, 0]])
    overlay = error_overlay(image, prediction, target)
    assert [nearest_colour(overlay[:, 0, k]) for k in range(3)] == [0, 1, 2]
    torch.testing.assert_close(overlay[:, 0, 3], torch.full((3,), 0.5))


def test_ignored_pixels_are_neither_hit_nor_error():
    image, target = torch.rand(3, 4, 4), torch.full((4, 4), 255)
    found = error_overlay(image, torch.ones(4, 4), target)
    torch.testing.assert_close(found, error_overlay(image, torch.zeros(4, 4), target))


def test_other_sizes_are_named():
    with pytest.raises(SegmendError, match=r"got \(4, 4\), \(4, 5\) and \(4, 4\)"):
        error_overlay(torch.rand(3, 4, 4), torch.zeros(4, 5), torch.zeros(4, 4))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 300), (64, 64)])
def test_sheet_has_a_panel_for_everything(size):
    row = Row("über", torch.rand(3, *size), torch.ones(size), [torch.ones(size)] * 2, ["a", "b"])
    picture = sheet([row, row], ["base", "refined"])
    assert picture.width > 4 * PANEL
    panel = max(1, round(PANEL * size[0] / max(size)))
    assert 2 * panel < picture.height < 2 * panel + 160


def test_sheet_refuses_rows_that_do_not_fit_the_headings():
    with pytest.raises(SegmendError, match="each with a prediction a heading"):
        sheet([], ["base"])
