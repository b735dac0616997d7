"""Figures show what they are given: read back from the axes, not by eye."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

from matplotlib import pyplot

from segmend.errors import SegmendError
from segmend.plot import FALSE_NEGATIVE, FALSE_POSITIVE
from segmend.plot_figures import bias_figure, cam_figure, error_figure, overlay_figure


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    pyplot.close("all")


def shown(axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def key_of(axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_errors_are_coloured_and_explained() -> None:
    image = torch.full((3, 2, 2), 0.5)
    axes = error_figure(image, torch.tensor([[1, 0], [1, 0]]), torch.tensor([[1, 1], [0, 255]]))
    picture = shown(axes)
    for place, colour in (((0, 1), FALSE_NEGATIVE), ((1, 0), FALSE_POSITIVE)):
        np.testing.assert_allclose(picture[place], 0.1 + 0.8 * np.array(colour) / 255, atol=1e-6)
    assert key_of(axes) == ["hit", "false positive", "false negative", "not counted"]


def test_only_classes_that_are_there_stand_in_the_key() -> None:
    labels = torch.tensor([[0, 2], [255, 0]])
    axes = overlay_figure(torch.rand(3, 2, 2), labels, classes=("background", "cat", "_$dog$"))
    assert len(key_of(axes)) == 1
    assert "dog" in key_of(axes)[0]
    axes.figure.canvas.draw()  # a name is no mathematics


def test_the_scale_of_bias_is_even_about_zero() -> None:
    axes = bias_figure([[0.1, -0.3], [float("nan"), 0.0]])
    assert axes.images[0].get_clim() == (-0.3, 0.3)
    assert bias_figure([[0.0]]).images[0].get_clim() == (-1, 1)


def test_maps_are_scaled_up_to_the_image() -> None:
    axes = cam_figure(torch.rand(3, 20, 30), torch.eye(4), title="cat")
    assert shown(axes).shape == (20, 30, 3)
    assert axes.get_title() == "cat"


def test_axes_that_are_given_are_used() -> None:
    _, axes = pyplot.subplots(1, 2)
    assert bias_figure([[0.1]], axes=axes[1]) is axes[1]
    assert not axes[0].images


@pytest.mark.parametrize(
    "call",
    [
        lambda: overlay_figure(torch.rand(3, 4, 4), torch.zeros(4, 5)),
        lambda: bias_figure([]),
        lambda: cam_figure(torch.rand(3, 4, 4), torch.rand(1, 4, 4)),
    ],
)
def test_wrong_shapes_are_named(call) -> None:
    with pytest.raises(SegmendError, match="want"):
        call()
