"""Pictures: the colours say what the masks say, and odd shapes do not break them."""

import pytest
import torch

from segmend import SegmendError
from segmend.plot import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    HEAT,
    HIT,
    PANEL,
    Row,
    class_colour,
    error_overlay,
    heat_overlay,
    label_overlay,
    sheet,
)


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


def test_labels_are_told_apart_and_background_stays_bare():
    image = torch.full((3, 1, 4), 0.5)
    found = label_overlay(image, torch.tensor([[0, 1, 7, 255]]))
    torch.testing.assert_close(found[:, 0, 0], torch.full((3,), 0.5))
    for column, label in ((1, 1), (2, 7)):
        wanted = 0.4 * 0.5 + 0.6 * torch.tensor(class_colour(label))
        torch.testing.assert_close(found[:, 0, column], wanted)
    assert found[:, 0, 3].std() < 1e-6  # ignored: grey


def test_no_two_of_21_classes_look_alike_and_none_is_grey():
    colours = torch.tensor([class_colour(label) for label in range(1, 22)])
    assert float(colours.std(dim=1).min()) > 0.1
    apart = torch.cdist(colours, colours) + 9 * torch.eye(21)
    assert float(apart.min()) > 0.12


def test_heat_runs_through_its_stops_in_order():
    image = torch.zeros(3, 1, 5)
    found = heat_overlay(image, torch.linspace(-0.0, 1, 5)[None])
    torch.testing.assert_close(found[:, 0].T, 0.6 * torch.tensor(HEAT) / 255)
    hotter = heat_overlay(image, torch.tensor([[0.1, 0.2, 0.5, 0.7, 5.0]]))
    assert (hotter.sum(0).diff() > 0).all()
