"""Matplotlib figures of masks, their errors, bias by place and activation maps, for notebooks.

Every function draws into the axes that it is given, or into new ones, and returns them. Needs
matplotlib, which `pip install 'segmend[notebook]'` brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.plot import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    HIT,
    IGNORED,
    class_colour,
    error_overlay,
    heat_overlay,
    label_overlay,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 4.0
"""Height of one panel in inches."""


def overlay_figure(
    image: Tensor,
    labels: Tensor,
    *,
    classes: Sequence[str] | None = None,
    ignore_index: int = 255,
    axes: Axes | None = None,
) -> Axes:
    """The image in grey with its classes in colour.

    Args:
        image: float (3, H, W) in [0, 1]. labels: integer (H, W); 0 stays bare.
        classes: names in label order, for a key of those that are there.
    """
    _same_size(image, labels)
    axes = axes if axes is not None else _new_axes()
    _show(axes, label_overlay(image, labels, ignore_index=ignore_index))
    if classes is not None:
        there = [label for label in torch.unique(labels).tolist() if 0 < label < len(classes)]
        _key(axes, [(classes[label], class_colour(label)) for label in there])
    return axes


def error_figure(
    image: Tensor,
    prediction: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    axes: Axes | None = None,
) -> Axes:
    """The image in grey with hits, false positives and false negatives of the foreground.

    Args:
        image: float (3, H, W) in [0, 1]. prediction, target: integer (H, W); all labels above 0
            are foreground.
    """
    axes = axes if axes is not None else _new_axes()
    foreground = torch.where(target == ignore_index, ignore_index, (target > 0).long())
    _show(axes, error_overlay(image, prediction > 0, foreground, ignore_index=ignore_index))
    names = ("hit", "false positive", "false negative", "not counted")
    colours = (HIT, FALSE_POSITIVE, FALSE_NEGATIVE, IGNORED)
    wanted = 4 if bool((target == ignore_index).any()) else 3
    pairs = zip(names[:wanted], colours[:wanted], strict=True)
    _key(axes, [(name, (r / 255, g / 255, b / 255)) for name, (r, g, b) in pairs])
    return axes


def bias_figure(
    cells: Sequence[Sequence[float]] | Tensor,
    *,
    label: str = "predicted minus true, share of pixels",
    axes: Axes | None = None,
) -> Axes:
    """A signed map over the frame, orange below 0 and blue above: `Diagnosis.bias.error`, say.

    Args:
        cells: rows by columns; NaN stays blank.
        label: of the scale.
    """
    values = np.asarray(cells, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise SegmendError(f"cells: want rows by columns, got the shape {values.shape}")
    axes = axes if axes is not None else _new_axes()
    peak = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
    peak = peak or 1.0
    drawn = axes.imshow(values, cmap="PuOr", vmin=-peak, vmax=peak)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    return axes


def cam_figure(
    image: Tensor, cam: Tensor, *, title: str | None = None, axes: Axes | None = None
) -> Axes:
    """The image in grey with a class activation map over it, dark violet for 0 to yellow for 1.

    Args:
        image: float (3, H, W) in [0, 1]. cam: float (h, w), scaled up to the image; values
            outside [0, 1] are clamped.
    """
    if cam.ndim != 2:
        raise SegmendError(f"cam: want one map (h, w), got the shape {tuple(cam.shape)}")
    axes = axes if axes is not None else _new_axes()
    large = torch.nn.functional.interpolate(
        cam.float()[None, None], size=image.shape[1:], mode="bilinear", align_corners=False
    )[0, 0]
    _show(axes, heat_overlay(image, large))
    if title is not None:
        axes.set_title(title)
    return axes


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise SegmendError("figures need matplotlib: pip install 'segmend[notebook]'") from error
    return pyplot.subplots(figsize=(1.25 * SIZE, SIZE), layout="constrained")[1]


def _show(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy())
    axes.set_axis_off()


def _key(axes: Axes, entries: Sequence[tuple[str, tuple[float, float, float]]]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, label=_literal(name)) for name, colour in entries]
    if patches:
        axes.legend(
            handles=patches, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9
        )


def _literal(text: str) -> str:
    """Matplotlib reads mathematics between dollars and hides labels that begin with "_"."""
    text = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def _same_size(image: Tensor, labels: Tensor) -> None:
    if image.shape[1:] != labels.shape:
        raise SegmendError(
            f"image and labels: want the same height and width, got {tuple(image.shape[1:])} and "
            f"{tuple(labels.shape)}"
        )
