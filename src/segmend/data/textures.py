"""Surfaces of procedural images: grey patterns in [0, 1], and coloured ones made of them."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

TEXTURES = ("stripes", "noise", "checker", "gradient")

Grey = NDArray[np.float32]


def texture(name: str, *, size: tuple[int, int], rng: np.random.Generator) -> Grey:
    """A pattern of one of TEXTURES with random turn, phase and period; float32 (H, W) in [0, 1]."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, phase, period = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(5.0, 9.0)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    wave = 2.0 * np.pi / period
    if name == "stripes":
        grey = 0.5 + 0.5 * np.sin(wave * along + phase)
    elif name == "checker":
        grey = (np.sin(wave * along + phase) * np.sin(wave * across + phase) > 0).astype(np.float32)
    elif name == "gradient":
        grey = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    else:
        grey = smooth_noise(size=size, cell=3.0, rng=rng)
    found: Grey = grey.astype(np.float32)
    return found


def smooth_noise(*, size: tuple[int, int], cell: float, rng: np.random.Generator) -> Grey:
    """Value noise: random numbers on a grid of `cell` pixels, interpolated; float32 in [0, 1]."""
    shape = tuple(int(np.ceil(side / cell)) + 2 for side in size)
    grid = rng.random(shape, dtype=np.float32)
    y, x = (np.arange(side, dtype=np.float32) / cell for side in size)
    top, left = y.astype(int)[:, None], x.astype(int)[None]
    fy, fx = _ease(y % 1.0)[:, None], _ease(x % 1.0)[None]
    upper = grid[top, left] * (1 - fx) + grid[top, left + 1] * fx
    lower = grid[top + 1, left] * (1 - fx) + grid[top + 1, left + 1] * fx
    grey: Grey = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return grey


def paint(grey: Grey, *, hue: float, saturation: float, brightness: float) -> NDArray[np.float32]:
    """Two tones of one hue, mixed by `grey`: float32 (3, H, W) in [0, 1]."""
    dark = np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, 0.55 * brightness), np.float32)
    light = np.array(colorsys.hsv_to_rgb(hue % 1.0, 0.6 * saturation, brightness), np.float32)
    mixed: NDArray[np.float32] = dark[:, None, None] + (light - dark)[:, None, None] * grey[None]
    return mixed


def _ease(fraction: Grey) -> Grey:
    return fraction * fraction * (3.0 - 2.0 * fraction)
