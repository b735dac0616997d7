"""NIfTI volumes: read with every check that a training run would otherwise stumble over later."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.errors import SegmendError

VOLUME_SUFFIXES = (".nii.gz", ".nii")
CORNER_TOLERANCE = 0.1
"""Two affines agree where they put every corner of the volume within a tenth of a voxel."""


@dataclass(frozen=True)
class Volume:
    """Voxels with their place in the world.

    voxels: float32 (C, H, W, D) of an image, int64 (H, W, D) of labels. affine: float64 (4, 4),
    voxel index to millimetres. spacing: float32 (3,), millimetres a voxel along each axis.
    """

    voxels: Tensor
    affine: Tensor
    spacing: Tensor


def stem_of(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def is_volume(path: Path) -> bool:
    """Whether the name is that of a visible NIfTI file."""
    return path.name.lower().endswith(VOLUME_SUFFIXES) and not path.name.startswith(".")


def read_volume(path: str | Path, *, channels: int = 1) -> Volume:
    """Read an image.

    Args:
        path: .nii or .nii.gz; 3D, or 4D with the channels last, as the Decathlon keeps them.
        channels: how many it must hold.
    Returns:
        `Volume` with float32 voxels (`channels`, H, W, D); orientation as in the file.
    Raises:
        SegmendError: nibabel is missing; a file that is missing, truncated or no NIfTI; another
            number of axes or channels; a spacing of 0; a voxel that is NaN or infinite.
    """
    path = Path(path)
    values, affine, spacing = _load(path)
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or values.shape[3] != channels:
        wanted = "(H, W, D)" if channels == 1 else f"(H, W, D, {channels})"
        found = tuple(values.shape[:3] if values.shape[3:] == (1,) else values.shape)
        hint = (
            "split it into volumes, or name its channels in dataset.json"
            if channels == 1
            else "a modality is missing, or dataset.json names too many"
        )
        raise SegmendError(f"{path}: want {wanted}, found {found}; {hint}")
    voxels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 3, 0), dtype=np.float32))
    _check_finite(path, voxels)
    return Volume(voxels, affine, spacing)


def read_labels(
    path: str | Path, *, num_classes: int | None = None, ignore_index: int = 255
) -> Volume:
    """Read a label volume: int64 (H, W, D), whole numbers from 0.

    Args:
        num_classes: where given, labels must be below it or equal to `ignore_index`.
    Raises:
        SegmendError: as in `read_volume`; a label that is negative, no whole number, or too high.
    """
    path = Path(path)
    values, affine, spacing = _load(path)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise SegmendError(
            f"{path}: want labels of shape (H, W, D), found {tuple(values.shape)}; one number a "
            "voxel, not one channel a class"
        )
    voxels = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    _check_finite(path, voxels)
    labels = voxels.long()
    wrong = (labels != voxels) | (labels < 0)
    if num_classes is not None:
        wrong |= (labels >= num_classes) & (labels != ignore_index)
    if bool(wrong.any()):
        where = tuple(int(i) for i in wrong.nonzero()[0])
        top = "upwards" if num_classes is None else f"to {num_classes - 1}, or {ignore_index}"
        raise SegmendError(
            f"{path}: want whole labels from 0 {top}, found {float(voxels[where]):g} at voxel "
            f"{where}"
        )
    return Volume(labels, affine, spacing)


def write_volume(path: str | Path, voxels: Tensor, affine: Tensor) -> None:
    """Write voxels (H, W, D) with an affine, whole or not at all.

    Labels (integer, bool) become uint8, or int16 beyond 255; floating point float32.

    Raises:
        SegmendError: nibabel is missing, no NIfTI name, a shape other than (H, W, D), labels
            beyond int16, a folder that cannot be written to.
    """
    nibabel, path = _nibabel(), Path(path)
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise SegmendError(f"{path}: want a name that ends with {' or '.join(VOLUME_SUFFIXES)}")
    if voxels.ndim != 3 or tuple(affine.shape) != (4, 4):
        raise SegmendError(
            f"{path}: want voxels (H, W, D) and an affine (4, 4), got {tuple(voxels.shape)} and "
            f"{tuple(affine.shape)}"
        )
    values: np.ndarray[Any, Any] = voxels.detach().cpu().numpy()
    values = values.astype(_stored_type(path, voxels))
    with atomic_write(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(values, affine.numpy()), temporary)


def check_same_grid(path: Path, volume: Volume, other: Path, partner: Volume) -> None:
    """Raise a SegmendError that names both files where shapes or affines differ."""
    size, found = tuple(volume.voxels.shape[-3:]), tuple(partner.voxels.shape[-3:])
    if size != found:
        raise SegmendError(
            f"{path} is {size}, but its partner {other} is {found}; want equal shapes; resample "
            "one onto the other's grid"
        )
    corners = torch.cartesian_prod(*(torch.tensor([0.0, s - 1.0]) for s in size)).double()
    corners = torch.cat([corners, torch.ones(8, 1, dtype=torch.float64)], 1)
    apart = (corners @ (volume.affine - partner.affine).T)[:, :3].norm(dim=1)
    if float(apart.max()) > CORNER_TOLERANCE * float(volume.spacing.min()):
        raise SegmendError(
            f"{path} and its partner {other} lie in different places: a corner is "
            f"{float(apart.max()):.3g} mm apart by their affines; write both with one affine, or "
            "resample one onto the other's grid"
        )


def _load(path: Path) -> tuple[np.ndarray[Any, Any], Tensor, Tensor]:
    nibabel = _nibabel()
    if not path.is_file():
        raise SegmendError(f"{path}: not found; want a NIfTI file (.nii, .nii.gz)")
    try:
        _check_pixdim(nibabel, path)
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as e:
        if isinstance(e, SegmendError):
            raise
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise SegmendError(
            f"{path}: cannot be read as NIfTI ({reason}); the file is truncated, damaged or of "
            "another kind: fetch or write it again"
        ) from e
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise SegmendError(f"{path}: spacing {tuple(spacing.tolist())}; want three numbers above 0")
    if 0 in values.shape:
        raise SegmendError(f"{path}: holds no voxels, its shape is {tuple(values.shape)}")
    return values, torch.from_numpy(affine), torch.from_numpy(spacing).float()


def _check_pixdim(nibabel: Any, path: Path) -> None:
    # nibabel mends a spacing of 0 into 1 without a word: the header is looked at as it is.
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as file:
        raw = file.read(nibabel.Nifti1Header.sizeof_hdr)
    if len(raw) < nibabel.Nifti1Header.sizeof_hdr:
        raise EOFError("shorter than a header")
    header = nibabel.Nifti1Header(raw, check=False)
    if header["magic"].item() not in (b"n+1", b"ni1"):
        return  # NIfTI-2 or another kind: nibabel judges
    axes = min(3, int(header["dim"][0]))
    spacing = header["pixdim"][1 : 1 + axes]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise SegmendError(
            f"{path}: spacing {tuple(float(s) for s in spacing)} in its header; want numbers above "
            "0, in mm: correct the header"
        )


def _check_finite(path: Path, voxels: Tensor) -> None:
    bad = ~voxels.isfinite()
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0][-3:])
        raise SegmendError(
            f"{path}: {int(bad.sum())} voxel(s) are NaN or infinite, the first at {where}; fill "
            "them before training"
        )


def _stored_type(path: Path, voxels: Tensor) -> type:
    if voxels.is_floating_point():
        return np.float32
    low, high = (0, 0) if voxels.numel() == 0 else (int(voxels.min()), int(voxels.max()))
    if low < -(2**15) or high >= 2**15:
        raise SegmendError(f"{path}: labels from {low} to {high} do not fit into int16")
    return np.uint8 if low >= 0 and high <= 255 else np.int16


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise SegmendError(
            "NIfTI files want nibabel, which is not installed: pip install 'segmend[medical]'"
        ) from error
    return nibabel
