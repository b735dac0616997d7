"""Masks of every encoding, against the labels that were drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segmend.data.masks import read_mask, voc_palette, write_mask
from segmend.errors import SegmendError

SUFFIXES = [".png", ".tif", ".bmp", ".npy"]
sizes = st.tuples(st.integers(1, 5), st.integers(1, 5))


def labels(size: tuple[int, int], values: list[int], seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).choice(values, size=size).astype(np.int64))


@given(
    st.sampled_from(SUFFIXES), st.sampled_from(["index", "palette"]), sizes, st.integers(0, 10**6)
)
def test_many_classes_round_trip(tmp_path_factory, suffix, encoding, size, seed) -> None:
    mask = labels(size, [0, 1, 2, 20, 255], seed)
    path = tmp_path_factory.mktemp("masks") / f"a{suffix}"
    write_mask(path, mask, encoding=encoding)
    again = read_mask(path, num_classes=21)
    assert again.dtype == torch.int64
    assert torch.equal(again, mask)


@given(st.sampled_from(SUFFIXES), sizes, st.integers(0, 10**6))
def test_two_classes_as_black_and_white_round_trip(tmp_path_factory, suffix, size, seed) -> None:
    mask = labels(size, [0, 1], seed)
    path = tmp_path_factory.mktemp("masks") / f"a{suffix}"
    write_mask(path, mask.bool())
    assert torch.equal(read_mask(path), mask)
    assert torch.equal(read_mask(path, encoding="0/255"), mask)


@given(st.sampled_from([".png", ".tif", ".bmp"]), sizes, st.integers(0, 10**6))
def test_palette_of_two_classes_with_ignore_has_no_ambiguity(
    tmp_path_factory, suffix, size, seed
) -> None:
    mask = labels(size, [0, 1, 255], seed)
    path = tmp_path_factory.mktemp("masks") / f"a{suffix}"
    write_mask(path, mask, encoding="palette")
    assert torch.equal(read_mask(path), mask)


@pytest.mark.parametrize(
    ("stored", "encoding", "ignore_index", "want"),
    [
        ([0, 1, 1], "auto", 255, [0, 1, 1]),
        ([0, 1, 255], "auto", 255, [0, 1, 255]),
        ([0, 255, 255], "auto", 255, [0, 1, 1]),  # the documented ambiguity
        ([255, 255, 255], "auto", 255, [1, 1, 1]),
        ([0, 0, 0], "auto", 255, [0, 0, 0]),
        ([0, 255, 0], "index", 255, [0, 255, 0]),
        ([255, 255, 255], "index", 255, [255, 255, 255]),
        ([0, 255, 128], "auto", 128, [0, 1, 128]),
        ([0, 255, 128], "0/255", 128, [0, 1, 128]),
        ([0, 1, 7], "auto", 7, [0, 1, 7]),
        ([0, 127, 128], "threshold", 255, [0, 0, 1]),
    ],
)
def test_what_stored_numbers_mean(tmp_path: Path, stored, encoding, ignore_index, want) -> None:
    Image.fromarray(np.array([stored], np.uint8)).save(tmp_path / "a.png")
    got = read_mask(tmp_path / "a.png", encoding=encoding, ignore_index=ignore_index)
    assert got.tolist() == [want]


@pytest.mark.parametrize("value", [0, 255])
def test_all_background_and_all_ignored_of_many_classes(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((3, 4), value, np.uint8)).save(tmp_path / "a.png")
    got = read_mask(tmp_path / "a.png", num_classes=4)
    assert torch.equal(got, torch.full((3, 4), value))


@pytest.mark.parametrize("stored", [[0, 65535], [0, 255], [0, 1]])
@pytest.mark.parametrize("suffix", [*SUFFIXES[:2], ".npy"])
def test_16_bit_files_of_two_classes(tmp_path: Path, stored: list[int], suffix: str) -> None:
    values, path = np.array([stored], np.uint16), tmp_path / f"a{suffix}"
    np.save(path, values) if suffix == ".npy" else Image.fromarray(values).save(path)
    assert read_mask(path).tolist() == [[0, 1]]


def test_threshold_of_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 32767, 32768]], np.uint16)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", encoding="threshold").tolist() == [[0, 0, 1]]


def test_16_bit_labels_above_255(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 300, 65535]])
    write_mask(tmp_path / "a.png", mask, encoding="index")
    got = read_mask(tmp_path / "a.png", num_classes=301, ignore_index=65535)
    assert torch.equal(got, mask)


def test_16_bit_image_given_as_mask_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100).save(tmp_path / "a.png")
    with pytest.raises(SegmendError, match=r"a\.png: 39\d grey values between 0 and 65535"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(SegmendError, match=r"a\.png: labels \[100, 200, .*want 0 \.\. 4 or 255"):
        read_mask(tmp_path / "a.png", num_classes=5)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA"])
def test_grey_in_every_mode(tmp_path: Path, mode: str) -> None:
    mask = labels((5, 9), [0, 1], 1)
    Image.fromarray((mask.numpy() * 255).astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert torch.equal(read_mask(tmp_path / "a.png"), mask)


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (2, 3, 1)])
def test_arrays_of_many_kinds(tmp_path: Path, kind: type, shape: tuple[int, ...]) -> None:
    mask = labels((2, 3), [0, 1], 0)
    np.save(tmp_path / "a.npy", mask.numpy().reshape(shape).astype(kind))
    assert torch.equal(read_mask(tmp_path / "a.npy"), mask)


def test_negative_ignore_index(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, -100, 1]]))
    assert read_mask(tmp_path / "a.npy", ignore_index=-100).tolist() == [[0, -100, 1]]


def test_palette_of_grey_tones_is_read_as_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("P")
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1]]


def test_palette_matches_known_voc_colours(tmp_path: Path) -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128),
             255: (224, 224, 192)}  # fmt: skip
    for label, colour in known.items():
        assert tuple(voc_palette()[label].tolist()) == colour
    write_mask(tmp_path / "a.png", torch.tensor([[15]]), encoding="palette")
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (192, 128, 128)


def test_jpeg_mask_says_what_to_do(tmp_path: Path) -> None:
    disc = (np.hypot(*np.mgrid[-20:20, -20:20]) < 13).astype(np.uint8)
    Image.fromarray(disc * 255).save(tmp_path / "a.jpg", quality=70)
    with pytest.raises(SegmendError, match=r"a\.jpg: \d+ grey values .*JPEG.*encoding='threshold'"):
        read_mask(tmp_path / "a.jpg")
    got = read_mask(tmp_path / "a.jpg", encoding="threshold")
    assert (got.numpy() == disc).all()


@pytest.mark.parametrize(
    ("stored", "num_classes", "text"),
    [
        ([0, 1, 2], 2, r"labels \[1, 2\] found; want 0 \.\. 1 \(or 0 and 255\) or 255"),
        ([0, 3, 9], 3, r"labels \[3, 9\] found; want 0 \.\. 2 or 255 for ignored .* num_classes"),
        ([*range(3, 20)], 3, r"labels \[3, 4, 5, 6, 7, 8, 9, 10, \.\.\.\]"),
    ],
)
def test_labels_above_the_class_count_are_named(tmp_path, stored, num_classes, text) -> None:
    Image.fromarray(np.array([stored], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SegmendError, match=rf"a\.png: {text}"):
        read_mask(tmp_path / "a.png", num_classes=num_classes)


def test_coloured_mask_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0, 0], [128, 0, 0]]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SegmendError, match=r"a\.png: a mask in colour; want one number a pixel"):
        read_mask(tmp_path / "a.png", num_classes=21)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([[0.2, 0.7]]), r"float values from 0\.2 to 0\.7 that are not whole"),
        (np.array([[0.0, np.nan]]), "that are not whole"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\); want a mask \(H, W\)"),
        (np.zeros((7, 6, 5)), r"shape \(7, 6, 5\); want a mask"),
        (np.array([[-1, 0]]), r"labels \[-1\] found"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, values: np.ndarray, text: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(SegmendError, match=rf"a\.npy: .*{text}"):
        read_mask(tmp_path / "a.npy")


def test_pages_are_no_mask(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    with pytest.raises(SegmendError, match=r"a\.tif: an array of shape \(4, 5, 6\); want a mask"):
        read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_and_cut_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_mask(path, labels((40, 40), [0, 1], 0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SegmendError, match=rf"a\{suffix}: cannot be read"):
        read_mask(path)
    path.write_bytes(b"")
    with pytest.raises(SegmendError, match=r"the file is empty \(0 bytes\)"):
        read_mask(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": 1}, "num_classes: want 2 or more, background included, got 1"),
        ({"encoding": "rgb"}, "encoding: want 'auto', 'index', '0/255' or 'threshold', got 'rgb'"),
        ({"num_classes": 3, "encoding": "0/255"}, "'0/255' holds two classes, got num_classes=3"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict, text: str) -> None:
    with pytest.raises(SegmendError, match=text):
        read_mask(tmp_path / "a.png", **options)


@pytest.mark.parametrize(
    ("name", "mask", "encoding", "text"),
    [
        ("a.jpg", torch.ones(2, 2).long(), "0/255", r"cannot be written as '\.jpg'; want \.png"),
        ("a.png", torch.rand(2, 2), "0/255", r"want a bool or integer mask \(H, W\)"),
        ("a.png", torch.ones(1, 2, 2).long(), "0/255", r"got torch\.int64 \(1, 2, 2\)"),
        ("a.png", torch.tensor([[0, 255]]), "0/255", r"from 0 to 255; .* holds 0 \.\. 1; write"),
        ("a.png", torch.tensor([[-1, 0]]), "index", r"from -1 to 0; encoding 'index'"),
        ("a.png", torch.tensor([[0, 256]]), "palette", r"'palette' holds 0 \.\. 255"),
        ("a.png", torch.tensor([[0, 1]]), "rgb", "want '0/255', 'index' or 'palette', got 'rgb'"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, name, mask, encoding, text) -> None:
    with pytest.raises(SegmendError, match=text):
        write_mask(tmp_path / name, mask, encoding=encoding)
    assert list(tmp_path.iterdir()) == []
