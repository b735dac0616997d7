"""Outlines of procedural objects: a shape's name to a bool mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHAPES = ("disc", "ring", "rectangle", "star", "triangle", "cross", "ellipse", "crescent")


def shape_mask(
    name: str,
    *,
    size: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    angle: float,
) -> NDArray[np.bool_]:
    """The pixels of one shape, bool (H, W).

    Args:
        name: one of SHAPES.
        size: (H, W), pixels.
        centre: (row, column), pixels; may lie outside the image.
        radius: of the circle around the shape, pixels.
        angle: turn, radians.
    """
    rows, columns = np.ogrid[: size[0], : size[1]]
    dy, dx = (rows - centre[0]) / radius, (columns - centre[1]) / radius
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = np.cos(angle) * dy - np.sin(angle) * dx
    far = np.hypot(u, v)
    masks = {
        "disc": lambda: far <= 1.0,
        "ring": lambda: (far <= 1.0) & (far >= 0.55),
        "rectangle": lambda: (np.abs(u) <= 0.85) & (np.abs(v) <= 0.5),
        "star": lambda: far <= 0.68 + 0.32 * np.cos(5.0 * np.arctan2(v, u)),
        "triangle": lambda: (v <= 0.5) & (v >= np.sqrt(3.0) * np.abs(u) - 1.0),
        "cross": lambda: (
            (np.maximum(np.abs(u), np.abs(v)) <= 0.9) & (np.minimum(np.abs(u), np.abs(v)) <= 0.3)
        ),
        "ellipse": lambda: u**2 + (v / 0.45) ** 2 <= 1.0,
        "crescent": lambda: (far <= 1.0) & (np.hypot(u - 0.5, v) > 0.75),
    }
    found: NDArray[np.bool_] = masks[name]()
    return found
