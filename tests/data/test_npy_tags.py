"""Multi-hot dicts as the WSSS repositories save them, and pickles that want more than arrays."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from segmend.data.npy_tags import read_multi_hot
from segmend.errors import SegmendError

ROWS = {"2007_000032": [1, 0, 1], "2007_000039": [0, 0, 0], "x": [0, 1, 0]}


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_reads_what_numpy_saves(tmp_path, dtype):
    path = tmp_path / "cls_labels.npy"
    np.save(path, {name: np.array(row, dtype) for name, row in ROWS.items()}, allow_pickle=True)
    assert read_multi_hot(path) == {"2007_000032": (0, 2), "2007_000039": (), "x": (1,)}


def test_reads_integer_ids_and_lists(tmp_path):
    path = tmp_path / "cls_labels.npy"
    np.save(path, {2007000032: [1, 0], np.int64(7): [0, 1]}, allow_pickle=True)
    assert read_multi_hot(path) == {"2007000032": (0,), "7": (1,)}


@pytest.mark.parametrize("protocol", range(6))
def test_reads_every_pickle_protocol_and_never_runs_code(tmp_path, protocol):
    def save(content):
        with (tmp_path / "a.npy").open("wb") as file:
            header = {"descr": "|O", "fortran_order": False, "shape": ()}
            np.lib.format.write_array_header_1_0(file, header)
            pickle.dump(content, file, protocol=protocol)
        return tmp_path / "a.npy"

    holder = np.empty((), dtype=object)
    holder[()] = {"a": np.array([0, 1], np.float32)}
    assert read_multi_hot(save(holder)) == {"a": (1,)}
    touched = tmp_path / "touched"
    holder[()] = {"a": Evil(touched)}
    for content in (holder, Evil(touched), {"a": np.array([Evil(touched)], dtype=object)}):
        with pytest.raises(
            SegmendError, match=r"a\.npy: cannot be read as a dict of arrays .*asks"
        ):
            read_multi_hot(save(content))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "want a dict of ID"),
        ({"a": [1, 0], "b": [1]}, r"arrays of different lengths \[1, 2\]"),
        ({"a": [2, 0]}, "entry 'a': want an array of 0 and 1"),
        ({"a": [[1, 0]]}, "entry 'a': want an array of 0 and 1"),
        ({"a": ["cow"]}, "entry 'a': want an array of 0 and 1"),
    ],
)
def test_other_content_is_refused(tmp_path, content, text):
    holder = np.empty((), dtype=object)
    holder[()] = content
    np.save(tmp_path / "a.npy", holder, allow_pickle=True)
    with pytest.raises(SegmendError, match=text):
        read_multi_hot(tmp_path / "a.npy")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, {"a": np.ones(3)}, allow_pickle=True)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(SegmendError, match=r"a\.npy: cannot be read"):
            read_multi_hot(path)
    np.save(path, np.ones((2, 3)))
    with pytest.raises(SegmendError, match=r"an array float64 \(2, 3\)"):
        read_multi_hot(path)
