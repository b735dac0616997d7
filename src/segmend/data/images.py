"""Images: files of many kinds to float32 (3, H, W) in [0, 1], and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.data.rasters import PICTURE_SUFFIXES, Raster, read_raster
from segmend.errors import SegmendError

IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, ".npy")


def read_image(path: str | Path) -> Tensor:
    """Read an image as float32 (3, H, W) in [0, 1].

    Grey (1 to 16 bits), palette, RGB, RGBA and CMYK files are accepted; grey is repeated over
    the three channels, alpha is dropped. Integers are divided by the largest value of their type
    (255 or 65535; a PNG of 16 bits a channel in colour is read at 8 bits). Float files must
    already be in [0, 1]. A 3D .npy is read as (3, H, W) where its first axis has 3 or 4 entries,
    else as (H, W, 3 or 4), else as one grey channel.

    The EXIF orientation is not applied: masks carry none, so an image turned here would no
    longer lie on its mask. Turn photographs and their masks together beforehand.

    Raises:
        SegmendError: missing, empty, damaged or unknown file; values outside [0, 1]; integers
            wider than 16 bits; a stack of several pages or another number of channels.
    """
    path = Path(path)
    raster = read_raster(path, suffixes=IMAGE_SUFFIXES)
    channels = _channels_first(path, raster)
    scaled = np.ascontiguousarray(_to_unit(path, channels, raster.peak))
    image = torch.from_numpy(scaled)
    return image.expand(3, -1, -1).contiguous() if len(image) == 1 else image


def write_image(path: str | Path, image: Tensor) -> None:
    """Write float (3, H, W) in [0, 1] as .png, .jpg, .tif or .bmp (8 bits) or .npy (float32).

    Raises:
        SegmendError: another shape, values outside [0, 1], an unknown suffix, not writable.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        known = ", ".join(IMAGE_SUFFIXES)
        raise SegmendError(f"{path}: the suffix {path.suffix!r} cannot be written; want {known}")
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point() or not image.numel():
        raise SegmendError(
            f"{path}: want a float image (3, H, W), got {image.dtype} {tuple(image.shape)}"
        )
    values = _to_unit(path, image.detach().cpu().float().numpy(), None)
    with atomic_write(path) as temporary:
        if suffix == ".npy":
            np.save(temporary, values)
            return
        pixels = np.rint(values * 255.0).astype(np.uint8).transpose(1, 2, 0)
        # The quality matters to JPEG alone; the other writers do not look at it.
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, quality=95)


def _channels_first(path: Path, raster: Raster) -> NDArray[Any]:
    """The stored pixels as (1 or 3, H, W)."""
    values = raster.values
    if raster.palette is not None:
        return _colours(path, values, raster.palette).transpose(2, 0, 1)
    if raster.layout == "HW":
        return values[None]
    if values.ndim == 3 and raster.layout != "pages":
        if raster.layout == "HWC" or (raster.layout == "unknown" and _is_channels_last(values)):
            values = values.transpose(2, 0, 1)
        if len(values) in (1, 3, 4):
            return values[:3]
    raise SegmendError(
        f"{path}: an array of shape {values.shape}; want one image: (H, W), (3, H, W) or (H, W, 3)"
    )


def _is_channels_last(values: NDArray[Any]) -> bool:
    first, last = values.shape[0], values.shape[-1]
    return first not in (3, 4) and (last in (3, 4) or (last == 1 and first != 1))


def _colours(path: Path, indices: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[Any]:
    if indices.max() >= len(palette):
        raise SegmendError(
            f"{path}: pixel index {indices.max()} has no colour in a palette of {len(palette)}"
        )
    colours: NDArray[Any] = palette[indices]
    return colours


def _to_unit(path: Path, values: NDArray[Any], peak: int | None) -> NDArray[np.float32]:
    if peak is not None:
        return values.astype(np.float32) / np.float32(peak)
    if values.dtype.kind != "f":
        raise SegmendError(
            f"{path}: pixels of type {values.dtype} have no agreed scale; save uint8, uint16 or "
            "float in [0, 1]"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # also NaN
        raise SegmendError(
            f"{path}: float pixels from {low:g} to {high:g}; want [0, 1] without NaN; divide by "
            "the largest possible value before saving"
        )
    return values.astype(np.float32)
