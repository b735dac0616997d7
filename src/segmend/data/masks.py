"""Masks: files of class labels to int64 (H, W), and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.data.rasters import PICTURE_SUFFIXES, Raster, read_raster
from segmend.errors import SegmendError

MASK_SUFFIXES = (*PICTURE_SUFFIXES, ".npy")
Encoding = Literal["auto", "index", "0/255", "threshold"]
WrittenEncoding = Literal["0/255", "index", "palette"]

_LOSSY = (".jpg", ".jpeg")


def read_mask(
    path: str | Path,
    *,
    num_classes: int = 2,
    ignore_index: int = 255,
    encoding: Encoding = "auto",
) -> Tensor:
    """Read a mask as int64 (H, W) with labels 0 .. num_classes - 1 and `ignore_index`.

    Args:
        num_classes: classes, background included; 2 is a binary mask.
        ignore_index: label of pixels that count for nothing; 255 as in PASCAL VOC.
        encoding: what the stored numbers mean.
            "index": they are the labels (or palette indices, as in VOC).
            "0/255": 0 is background, white (255, or 65535 of 16 bits) is foreground.
            "threshold": at least half of white is foreground (masks saved as JPEG).
            "auto": "index" for more than two classes, for palette files in colour, and where
            only {0, 1, ignore_index} occur; else "0/255".

    The one ambiguity of "auto": in a grey file of two classes, {0, 255} and {255} mean 0/255, so
    255 is foreground although `ignore_index` is 255; once a 1 occurs, 255 means ignore. Say
    `encoding="index"` where a set of 0/1 masks has images without foreground but with ignored
    pixels. Colour files are accepted where all channels are equal; alpha is dropped.

    Raises:
        SegmendError: missing, empty, damaged or unknown file; a coloured mask; labels outside
            the range; grey values where 0/255 is expected (JPEG); floats that are not whole.
    """
    path = Path(path)
    _check_options(num_classes, encoding)
    raster = read_raster(path, suffixes=MASK_SUFFIXES)
    stored = _one_channel(path, raster)
    found = _values_found(stored)
    if encoding == "threshold":
        return torch.from_numpy((stored >= (_white(raster) + 1) // 2).astype(np.int64))
    if encoding == "auto":
        encoding = _recognise(raster, found, num_classes, ignore_index)
    if encoding == "0/255":
        return _from_black_and_white(path, raster, stored, found, ignore_index)
    return _from_indices(path, stored, found, num_classes, ignore_index)


def write_mask(path: str | Path, mask: Tensor, *, encoding: WrittenEncoding = "0/255") -> None:
    """Write a bool or integer mask (H, W) as .png, .tif, .bmp or .npy.

    Args:
        encoding: "0/255" for labels {0, 1} (8 bits, foreground 255); "index" for the labels as
            they are (8 bits, 16 where a label is above 255); "palette" for the labels with the
            PASCAL VOC colours (.png, .tif, .bmp; labels up to 255).

    Ignored pixels cannot be told from foreground in "0/255": use "index", or "palette", the only
    one that `read_mask(encoding="auto")` reads back without any ambiguity.

    Raises:
        SegmendError: another shape or type, a label that the encoding or the format cannot hold,
            .jpg (it changes labels), not writable.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in MASK_SUFFIXES or suffix in _LOSSY:
        allowed = ", ".join(s for s in MASK_SUFFIXES if s not in _LOSSY)
        raise SegmendError(f"{path}: a mask cannot be written as {suffix!r}; want {allowed}")
    if mask.ndim != 2 or mask.is_floating_point() or mask.is_complex() or not mask.numel():
        raise SegmendError(
            f"{path}: want a bool or integer mask (H, W), got {mask.dtype} {tuple(mask.shape)}"
        )
    pixels = _encoded(path, mask.detach().cpu().numpy().astype(np.int64), encoding)
    with atomic_write(path) as temporary:
        if suffix == ".npy":
            np.save(temporary, pixels)
            return
        image = Image.fromarray(pixels)
        if encoding == "palette":
            image.putpalette(voc_palette().tobytes())
        image.save(temporary)


def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours of PASCAL VOC, uint8 (256, 3): the bits of a label dealt out to R, G, B."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> channel) & 1) << (7 - bit)).astype(np.uint8)
        labels >>= 3
    return colours


def _check_options(num_classes: int, encoding: str) -> None:
    if num_classes < 2:
        raise SegmendError(f"num_classes: want 2 or more, background included, got {num_classes}")
    if encoding not in ("auto", "index", "0/255", "threshold"):
        raise SegmendError(
            f"encoding: want 'auto', 'index', '0/255' or 'threshold', got {encoding!r}"
        )
    if num_classes > 2 and encoding in ("0/255", "threshold"):
        raise SegmendError(
            f"encoding {encoding!r} holds two classes, got num_classes={num_classes}"
        )


def _one_channel(path: Path, raster: Raster) -> NDArray[Any]:
    """The stored numbers as an integer array (H, W)."""
    values = raster.values
    first_is_channel = raster.layout == "CHW" or values.shape[0] == 1
    if values.ndim == 3 and raster.layout != "HWC" and first_is_channel:
        values = np.moveaxis(values, 0, -1)
    if raster.layout == "pages" or values.ndim not in (2, 3) or not _grey_count(values):
        raise SegmendError(f"{path}: an array of shape {raster.values.shape}; want a mask (H, W)")
    if values.ndim == 3:
        colours = values[..., :3]
        if not (colours == colours[..., :1]).all():
            raise SegmendError(
                f"{path}: a mask in colour; want one number a pixel; map each colour to its class "
                "index and save as grey or palette PNG"
            )
        values = values[..., 0]
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise SegmendError(
                f"{path}: float values from {values.min():g} to {values.max():g} that are not "
                "whole; want class labels; threshold probabilities before saving"
            )
        values = values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values


def _values_found(stored: NDArray[Any]) -> NDArray[Any]:
    if stored.dtype == np.uint8:  # ten times the speed of a sort
        return np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
    return np.unique(stored)


def _grey_count(values: NDArray[Any]) -> bool:
    return values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (1, 3, 4))


def _white(raster: Raster) -> int:
    return 255 if raster.peak is None else raster.peak


def _recognise(
    raster: Raster, found: NDArray[Any], num_classes: int, ignore_index: int
) -> Literal["index", "0/255"]:
    if num_classes > 2 or raster.values.dtype == bool or _in_colour(raster.palette):
        return "index"
    only_labels = np.isin(found, [0, 1, ignore_index]).all()
    white_without_one = 1 not in found and bool(np.isin([255, _white(raster)], found).any())
    return "index" if only_labels and not white_without_one else "0/255"


def _in_colour(palette: NDArray[np.uint8] | None) -> bool:
    """A palette that is more than a ramp of grey says that the numbers are class indices."""
    if palette is None:
        return False
    ramp = np.arange(len(palette), dtype=np.uint8)[:, None]
    return not (palette == ramp).all()


def _from_indices(
    path: Path, stored: NDArray[Any], found: NDArray[Any], num_classes: int, ignore_index: int
) -> Tensor:
    outside = found[((found < 0) | (found >= num_classes)) & (found != ignore_index)]
    if outside.size:
        raise _bad_labels(path, outside, num_classes, ignore_index)
    return torch.from_numpy(stored.astype(np.int64))


def _from_black_and_white(
    path: Path, raster: Raster, stored: NDArray[Any], found: NDArray[Any], ignore_index: int
) -> Tensor:
    white = 255 if raster.peak is None or 255 in found else raster.peak
    outside = found[(found != 0) & (found != white) & (found != ignore_index)]
    if outside.size:
        raise _not_black_and_white(path, outside, white, ignore_index)
    labels = (stored == white).astype(np.int64)
    if ignore_index != white:
        labels[stored == ignore_index] = ignore_index
    return torch.from_numpy(labels)


def _not_black_and_white(
    path: Path, outside: NDArray[Any], white: int, ignore_index: int
) -> SegmendError:
    if path.suffix.lower() in _LOSSY or outside.size > 8:
        return SegmendError(
            f"{path}: {outside.size} grey values between 0 and {white}, as JPEG or smoothing "
            f"leaves them ({_few(outside)}); want 0 and {white}; save it as PNG thresholded at "
            f"half of {white}, or read it with encoding='threshold'"
        )
    return _bad_labels(path, outside, 2, ignore_index)


def _bad_labels(
    path: Path, outside: NDArray[Any], num_classes: int, ignore_index: int
) -> SegmendError:
    also = " (or 0 and 255)" if num_classes == 2 else ""
    return SegmendError(
        f"{path}: labels {_few(outside)} found; want 0 .. {num_classes - 1}{also} or "
        f"{ignore_index} for ignored pixels; set num_classes or ignore_index to fit, or relabel"
    )


def _few(values: NDArray[Any]) -> str:
    shown = ", ".join(str(int(v)) for v in values[:8])
    return f"[{shown}, ...]" if values.size > 8 else f"[{shown}]"


def _encoded(path: Path, labels: NDArray[np.int64], encoding: str) -> NDArray[Any]:
    low, high = int(labels.min()), int(labels.max())
    limits = {"0/255": 1, "palette": 255, "index": 65535}
    if encoding not in limits:
        raise SegmendError(f"encoding: want '0/255', 'index' or 'palette', got {encoding!r}")
    if low < 0 or high > limits[encoding]:
        advice = "; write ignored pixels with 'index' or 'palette'" if encoding == "0/255" else ""
        raise SegmendError(
            f"{path}: labels from {low} to {high}; encoding {encoding!r} holds 0 .. "
            f"{limits[encoding]}{advice}"
        )
    if encoding == "0/255":
        return (labels * 255).astype(np.uint8)
    return labels.astype(np.uint16 if high > 255 else np.uint8)
