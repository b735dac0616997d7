"""Probability maps: what any framework writes, to float32 (C, H, W) in [0, 1], and back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.data.rasters import Raster, check_file, peak_of, read_raster, unreadable
from segmend.errors import SegmendError

PROBABILITY_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".npz")

_NPZ_KEYS = ("probabilities", "softmax", "probs")  # nnU-Net 2, nnU-Net 1, ours by hand
_SLACK = 1e-6  # a float32 softmax may pass 1 by a few units in the last place
_SMALLEST_SIDE = 32  # below it, (H, W, C) and (C, H, W) are not told apart


def read_probabilities(path: str | Path) -> Tensor:
    """Read a probability map as float32 (C, H, W) in [0, 1].

    .png: 8 or 16 bits grey, one channel. .tif: float, 8 or 16 bits, one or many channels or
    pages. .npy and .npz: float, uint8 or uint16. 8 bits are divided by 255, 16 bits by 65535.
    An .npz is read at `probabilities` (nnU-Net), `softmax`, `probs`, or its only array.
    Arrays may be (H, W), (C, H, W), nnU-Net's (C, 1, H, W) of a 2D image, or (H, W, C); the last
    is recognised only where it cannot be meant as (C, H, W): H and W of 32 or more, C at most 4
    or channels that sum to 1 over the last axis but not over the first, and never at
    `probabilities`. In all other cases the first axis is the channels.

    Float values beyond [0, 1] by at most 1e-6 are clamped.

    Raises:
        SegmendError: missing, empty, damaged or unknown file; NaN; values outside [0, 1] (the
            message says what they look like); a coloured image; a volume; wide integers.
    """
    path = Path(path)
    values = _read_stored(path)
    peak = peak_of(values)
    if peak is not None:
        return torch.from_numpy(values.astype(np.float32) / np.float32(peak))
    return torch.from_numpy(_checked(path, values))


def read_raw_probabilities(path: str | Path) -> Tensor:
    """Read a probability map (C, H, W) without leaving its quantised type.

    torch.uint8 stands for p = value / 255 and torch.uint16 for p = value / 65535; float files
    come as float32 in [0, 1]. Layouts and errors as in `read_probabilities`.
    """
    path = Path(path)
    values = _read_stored(path)
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    return torch.from_numpy(values if peak_of(values) is not None else _checked(path, values))


def write_probabilities(path: str | Path, probs: Tensor, *, bits: Literal[8, 16] = 16) -> None:
    """Write a probability map (C, H, W) or (H, W); the suffix chooses the format.

    .png: one channel, `bits` of 16 (round(p * 65535)) or 8. .tif: float32. .npy: float32, or
    float16 if `probs` is. .npz: key `probabilities`, type as .npy, not compressed (compressing
    noise-like floats costs far more time than it saves space). uint8 and uint16 tensors
    (value / 255, value / 65535) are kept as they are in every format.

    Raises:
        SegmendError: another shape or type, values outside [0, 1], many channels as .png, an
            unknown suffix, not writable.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in PROBABILITY_SUFFIXES:
        known = ", ".join(PROBABILITY_SUFFIXES)
        raise SegmendError(f"{path}: the suffix {path.suffix!r} cannot be written; want {known}")
    values = _to_store(path, probs)
    if suffix == ".png" and len(values) != 1:
        raise SegmendError(f"{path}: .png holds one channel, got {len(values)}; write .npz or .tif")
    if bits not in (8, 16):
        raise SegmendError(f"bits: want 8 or 16, got {bits!r}")
    with atomic_write(path) as temporary:
        if suffix == ".png":
            # Level 1: twice the speed of the default for a few per cent of size.
            Image.fromarray(_quantised(values[0], bits)).save(temporary, compress_level=1)
        elif suffix == ".npz":
            np.savez(temporary, probabilities=values)
        elif suffix == ".npy":
            np.save(temporary, values)
        else:
            stored = values.astype(np.float32) if values.dtype.kind == "f" else values
            tifffile.imwrite(temporary, stored, photometric="minisblack", metadata={"axes": "CYX"})


def _read_stored(path: Path) -> NDArray[Any]:
    """The stored type, as a contiguous (C, H, W)."""
    suffix = check_file(path, suffixes=PROBABILITY_SUFFIXES)
    if suffix == ".npz":
        key, values = _read_npz(path)
        named = key in _NPZ_KEYS[:2]
        raster = Raster(values, "CHW" if named and values.ndim == 3 else "unknown", None)
    else:
        raster = read_raster(path, suffixes=PROBABILITY_SUFFIXES)
    values = _scaled_bits(path, raster)
    if values.dtype.kind != "f" and peak_of(values) is None:
        raise SegmendError(
            f"{path}: values of type {values.dtype} have no agreed scale; save probabilities as "
            "float in [0, 1], uint8 or uint16"
        )
    return np.ascontiguousarray(_channels_first(path, values, raster.layout))


def _read_npz(path: Path) -> tuple[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = list(archive.files)
            key = next((k for k in _NPZ_KEYS if k in names), names[0] if len(names) == 1 else None)
            values = None if key is None else archive[key]
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    if key is None or values is None:
        raise SegmendError(f"{path}: arrays {names} found; want one named 'probabilities'")
    if values.dtype.kind not in "biuf" or values.size == 0:
        raise SegmendError(f"{path}: {key!r} is {values.dtype} {values.shape}; want probabilities")
    return key, values.astype(values.dtype.newbyteorder("="), copy=False)


def _scaled_bits(path: Path, raster: Raster) -> NDArray[Any]:
    """Refuse palettes and colour; bring grey of fewer bits (1, 2, 4, 12) to its full type."""
    values = raster.values
    if raster.palette is not None:
        raise SegmendError(f"{path}: a palette file holds labels; want probabilities in grey")
    if raster.layout == "HWC" and values.shape[-1] in (3, 4) and path.suffix.lower() == ".png":
        if not (values[..., :3] == values[..., :1]).all():
            raise SegmendError(
                f"{path}: a PNG in colour; want grey (one channel); save many channels as .npz"
            )
        return values[..., :1]
    full = peak_of(values)
    if raster.peak is None or full is None or raster.peak == full:
        return values
    return np.rint(values * (full / raster.peak)).astype(values.dtype)


def _channels_first(path: Path, values: NDArray[Any], layout: str) -> NDArray[Any]:
    if values.ndim == 2:
        return values[None]
    if values.ndim == 4 and values.shape[1] == 1:  # nnU-Net keeps the slice axis of a 2D image
        return values[:, 0]
    if values.ndim != 3:
        raise SegmendError(
            f"{path}: an array of shape {values.shape}; want (H, W), (C, H, W) or (C, 1, H, W) of "
            "one 2D image"
        )
    last = layout == "HWC" or (layout == "unknown" and _is_channels_last(values))
    return values.transpose(2, 0, 1) if last else values


def _is_channels_last(values: NDArray[Any]) -> bool:
    first, second, last = values.shape
    if min(first, second) < _SMALLEST_SIDE or last >= _SMALLEST_SIDE or _sums_to_one(values, 0):
        return False
    return last <= 4 or _sums_to_one(values, -1)


def _sums_to_one(values: NDArray[Any], axis: int) -> bool:
    total = values.sum(axis=axis, dtype=np.float64) / (peak_of(values) or 1)
    return bool(np.allclose(total, 1.0, atol=0.02))


def _checked(path: Path, values: NDArray[Any]) -> NDArray[np.float32]:
    broken = np.count_nonzero(~np.isfinite(values))
    if broken:
        raise SegmendError(
            f"{path}: {broken} of {values.size} values are NaN or infinite; want probabilities in "
            "[0, 1]; look for a division by zero or an overflow where they were written"
        )
    low, high = float(values.min()), float(values.max())
    if low < -_SLACK or high > 1.0 + _SLACK:
        raise SegmendError(
            f"{path}: values from {low:g} to {high:g}; want probabilities in [0, 1]; "
            + _cure(low, high)
        )
    return np.clip(values.astype(np.float32), 0.0, 1.0)


def _cure(low: float, high: float) -> str:
    if low >= -0.25 and high <= 1.25:
        return "if cubic resizing overshot, clip to [0, 1]; if they are logits, apply a sigmoid"
    if low >= 0.0 and 2.0 <= high <= 255.0:
        return "they look like grey values 0 .. 255: divide by 255, or save them as uint8"
    return (
        "they look like logits: apply a sigmoid (one channel or independent channels) or a "
        "softmax over the channels before saving"
    )


def _to_store(path: Path, probs: Tensor) -> NDArray[Any]:
    whole = probs.dtype in (torch.uint8, torch.uint16)
    fits = probs.ndim in (2, 3) and probs.numel() > 0 and (whole or probs.is_floating_point())
    if not fits:
        raise SegmendError(
            f"{path}: want float, uint8 or uint16 probabilities (C, H, W), got {probs.dtype} "
            f"{tuple(probs.shape)}"
        )
    probs = probs.detach().cpu()
    if probs.ndim == 2:
        probs = probs[None]
    if whole:
        return np.ascontiguousarray(probs.numpy())
    checked = _checked(path, probs.float().numpy())
    return checked.astype(np.float16) if probs.dtype == torch.float16 else checked


def _quantised(values: NDArray[Any], bits: int) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return values
    peak = 65535 if bits == 16 else 255
    return np.rint(values.astype(np.float64) * peak).astype(np.uint16 if bits == 16 else np.uint8)
