"""Any 2D file to the array as it is stored: what images, masks and probability maps share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segmend.errors import SegmendError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
Layout = Literal["HW", "HWC", "CHW", "pages", "unknown"]

# Pillow scales PNG grey of 2 and 4 bits to 0 .. 255; this is the way back to the stored value.
_GREY_STEP = {"L;2": 85, "L;4": 17}
_DIRECT = (
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.PALETTE,
)


@dataclass(frozen=True)
class Raster:
    """An array as stored, and what the file says about it.

    Attributes:
        values: bool, uint8, uint16, other integers or float; shape as `layout`.
        layout: "unknown" for a 3D array without axis names (npy); "pages" for a stack of pages.
        peak: stored value of full white (1, 3, 15, 255, 65535); None where the type has none.
        palette: uint8 (K, 3) colours of an indexed file, else None.
    """

    values: NDArray[Any]
    layout: Layout
    peak: int | None
    palette: NDArray[np.uint8] | None = None


def read_raster(path: str | Path, *, suffixes: tuple[str, ...]) -> Raster:
    """Read one file whose suffix is among `suffixes` without scaling or converting its values.

    Raises:
        SegmendError: no such file, a folder, 0 bytes, another suffix, damaged, or no pixels.
    """
    path = Path(path)
    suffix = check_file(path, suffixes=suffixes)
    try:
        if suffix == ".npy":
            raster = _from_array(np.load(path, allow_pickle=False))
        elif suffix in (".tif", ".tiff"):
            raster = _read_tiff(path)
        else:
            raster = _read_pillow(path)
    except SegmendError:
        raise
    except Image.DecompressionBombError as error:
        raise SegmendError(
            f"{path}: {error}; cut it into tiles, or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # a decoder given a stranger's bytes may raise anything
        raise unreadable(path, error) from error
    if raster.values.size == 0:
        raise SegmendError(f"{path}: no pixels, shape {raster.values.shape}; want at least 1x1")
    return raster


def check_file(path: Path, *, suffixes: tuple[str, ...]) -> str:
    """The lower-case suffix of an existing, non-empty file; SegmendError otherwise."""
    suffix = path.suffix.lower()
    if not path.exists():
        raise SegmendError(f"{path}: no such file")
    if path.is_dir():
        raise SegmendError(f"{path}: is a folder; want one file")
    if suffix not in suffixes:
        raise SegmendError(
            f"{path}: the suffix {path.suffix!r} cannot be read here; want {', '.join(suffixes)}"
        )
    if path.stat().st_size == 0:
        raise SegmendError(f"{path}: the file is empty (0 bytes); write it again")
    return suffix


def unreadable(path: Path, error: Exception) -> SegmendError:
    return SegmendError(
        f"{path}: cannot be read ({type(error).__name__}: {error}); it is cut short, damaged or "
        f"not what its suffix {path.suffix!r} says; write or copy it again"
    )


def peak_of(values: NDArray[Any]) -> int | None:
    """Full white of a stored type: 1, 255 or 65535; None for types without an agreed scale."""
    return {"bool": 1, "uint8": 255, "uint16": 65535}.get(values.dtype.name)


def _from_array(values: NDArray[Any]) -> Raster:
    if values.dtype.kind not in "biuf":
        raise TypeError(f"an array of {values.dtype}, want numbers")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return Raster(values, "HW" if values.ndim == 2 else "unknown", peak_of(values))


def _read_tiff(path: Path) -> Raster:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        page = series.keyframe
        if page.photometric not in _DIRECT:
            return _read_pillow(path)  # CMYK, YCbCr, CIELAB: Pillow converts them to RGB
        try:
            values = np.asarray(series.asarray())
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_pillow(path)  # LZW, JPEG: what needs a codec that Pillow has built in
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        alpha = any(int(kind) > 0 for kind in page.extrasamples)  # 0 is "unspecified": data
        if series.axes == "YXS" and page.samplesperpixel == 2 and alpha:
            return Raster(values[..., 0], "HW", peak_of(values))  # grey with alpha
        peak = peak_of(values)
        if peak is not None:
            peak = min(peak, 2 ** int(page.bitspersample) - 1)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and peak is not None:
            values = peak - values if peak > 1 else ~values.astype(bool)
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        return Raster(values, _tiff_layout(series.axes), peak, palette)


def _tiff_layout(axes: str) -> Layout:
    if axes == "YX":
        return "HW"
    if axes == "YXS":
        return "HWC"
    if axes in ("SYX", "CYX"):
        return "CHW"
    if len(axes) == 3 and axes.endswith("YX"):
        return "pages"
    raise ValueError(f"its axes are {axes}, want one 2D image")


def _read_pillow(path: Path) -> Raster:
    with Image.open(path) as file:
        image: Image.Image = file
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise ValueError("several pages, want one")
        step = _grey_step(image)
        image.load()
        if image.mode == "P":
            colours = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
            return Raster(np.array(image), "HW", 255, colours)
        if image.mode in ("LA", "La"):
            image = image.getchannel(0)
        elif image.mode not in ("1", "L", "I", "F", "RGB", "RGBA") and image.mode[:2] != "I;":
            image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV, palette with alpha
        values = np.array(image)  # a copy: Pillow's own memory is read only
        if image.mode[:2] == "I;" or (image.mode == "I" and image.format == "PNG"):
            values = values.astype(np.uint16)
    if values.ndim == 3:
        return Raster(values, "HWC", 255)
    return Raster(values // step if step > 1 else values, "HW", _scaled_peak(values, step))


def _grey_step(image: Image.Image) -> int:
    tiles = getattr(image, "tile", None) if image.format == "PNG" else None
    return _GREY_STEP.get(str(tiles[0][3]), 1) if tiles else 1


def _scaled_peak(values: NDArray[Any], step: int) -> int | None:
    peak = peak_of(values)
    return None if peak is None else peak // step
