"""`cls_labels.npy`: a pickled dict of multi-hot arrays, read without trusting the file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from segmend.errors import SegmendError

# All that a dict of numbers and NumPy arrays needs; a pickle may name any function to be called.
_ALLOWED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that rebuilds NumPy arrays in dicts and lists, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_multi_hot(path: str | Path) -> dict[str, tuple[int, ...]]:
    """ID -> positions of the ones in its multi-hot array.

    Integer IDs (VOC's without the underscore) come back as their digits.

    Raises:
        SegmendError: not a .npy file of such a dict, a pickle that asks for anything but arrays,
            arrays of different lengths, values other than 0 and 1.
    """
    path = Path(path)
    content = _load(path)
    if isinstance(content, np.ndarray) and content.shape == ():
        content = content.item()
    if not isinstance(content, dict):
        raise SegmendError(f"{path}: want a dict of ID -> multi-hot array, got {type(content)}")
    lengths = {len(np.atleast_1d(np.asarray(row))) for row in content.values()}
    if len(lengths) > 1:
        raise SegmendError(f"{path}: arrays of different lengths {sorted(lengths)}; want one")
    return {str(name): _positions(path, name, row) for name, row in content.items()}


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if not dtype.hasobject or shape != ():
                raise SegmendError(
                    f"{path}: an array {dtype} {shape}; want a dict of ID -> multi-hot array"
                )
            return _ArraysOnly(file, encoding="latin1").load()
    except SegmendError:
        raise
    except Exception as error:  # a stranger's bytes may raise anything
        raise SegmendError(
            f"{path}: cannot be read as a dict of arrays ({type(error).__name__}: {error}); it is "
            "damaged, or a pickle of something else, which is not opened; save tags as JSON"
        ) from error


def _positions(path: Path, name: object, row: object) -> tuple[int, ...]:
    values = np.asarray(row)
    if values.ndim != 1 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise SegmendError(f"{path}, entry {name!r}: want an array of 0 and 1 (C,)")
    return tuple(int(i) for i in np.flatnonzero(values))
