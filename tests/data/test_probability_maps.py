"""Probability maps of every format, against arrays written with NumPy, Pillow and tifffile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segmend.data.probability_maps import (
    PROBABILITY_SUFFIXES,
    read_probabilities,
    read_raw_probabilities,
    write_probabilities,
)
from segmend.errors import SegmendError

FLOAT_SUFFIXES = [".tif", ".tiff", ".npy", ".npz"]
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 10**6)


def random_probs(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from(FLOAT_SUFFIXES), shapes, seeds)
def test_float_formats_are_exact(tmp_path_factory, suffix, shape, seed) -> None:
    probs = random_probs(shape, seed)
    path = tmp_path_factory.mktemp("probs") / f"a{suffix}"
    write_probabilities(path, probs)
    for read in (read_probabilities, read_raw_probabilities):
        again = read(path)
        assert again.dtype == torch.float32
        assert torch.equal(again, probs)


@given(st.sampled_from([8, 16]), st.tuples(st.integers(1, 6), st.integers(1, 6)), seeds)
def test_png_is_within_half_a_step(tmp_path_factory, bits, size, seed) -> None:
    probs = random_probs(size, seed)
    path = tmp_path_factory.mktemp("probs") / "a.png"
    write_probabilities(path, probs, bits=bits)
    peak = 2**bits - 1
    step = (read_probabilities(path)[0].double() - probs.double()).abs().max() * peak
    assert float(step) <= 0.5 + 0.01  # float32 has 1/256 of a 16-bit step
    raw = read_raw_probabilities(path)
    assert raw.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    assert torch.equal(raw[0].int(), (probs.double() * peak).round().int())


@given(st.sampled_from(FLOAT_SUFFIXES), st.sampled_from([torch.uint8, torch.uint16]), shapes, seeds)
def test_quantised_tensors_keep_their_type(tmp_path_factory, suffix, dtype, shape, seed) -> None:
    peak = torch.iinfo(dtype).max
    probs = (random_probs(shape, seed) * peak).to(dtype)
    path = tmp_path_factory.mktemp("probs") / f"a{suffix}"
    write_probabilities(path, probs)
    raw = read_raw_probabilities(path)
    assert raw.dtype == dtype
    assert torch.equal(raw.int(), probs.int())
    torch.testing.assert_close(read_probabilities(path), probs.float() / peak)


def test_half_precision_stays_half_on_disk(tmp_path: Path) -> None:
    probs = torch.rand(2, 3, 4).half()
    write_probabilities(tmp_path / "a.npz", probs)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["probabilities"].dtype == np.float16
        assert archive["probabilities"].shape == (2, 3, 4)
    assert torch.equal(read_probabilities(tmp_path / "a.npz"), probs.float())


def test_default_png_has_16_bits(tmp_path: Path) -> None:
    write_probabilities(tmp_path / "a.png", torch.tensor([[[0.0, 0.25, 1.0]]]))
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[0, 16384, 65535]]


@pytest.mark.parametrize("key", ["probabilities", "softmax", "probs", "anything"])
@pytest.mark.parametrize("slice_axis", [False, True])
def test_npz_of_other_frameworks(tmp_path: Path, key: str, slice_axis: bool) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 5)).transpose(2, 0, 1)
    values = values.astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", **{key: values[:, None] if slice_axis else values})
    assert torch.equal(read_probabilities(tmp_path / "a.npz"), torch.from_numpy(values))


def test_npz_with_other_arrays_beside(tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 0.5, np.float32)
    np.savez(tmp_path / "a.npz", spacing=np.ones(3), probabilities=values)
    assert torch.equal(read_probabilities(tmp_path / "a.npz"), torch.from_numpy(values))


def test_npz_without_a_known_key_lists_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=np.ones(3), right=np.ones(3))
    with pytest.raises(SegmendError, match=r"a\.npz: arrays \['left', 'right'\] found; want one n"):
        read_probabilities(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((40, 50, 3), True), ((48, 50, 4), False), ((40, 50, 1), True), ((40, 50, 21), True),
     ((3, 40, 50), False), ((40, 32, 33), False), ((150, 40, 40), False), ((5, 7, 3), False),
     ((2, 1, 9), False)],
)  # fmt: skip
@pytest.mark.parametrize("quantised", [False, True])
def test_layout_of_npy(tmp_path: Path, shape, channels_last: bool, quantised: bool) -> None:
    channels = shape[-1] if channels_last else shape[0]
    size = shape[:-1] if channels_last else shape[1:]
    soft = np.random.default_rng(0).dirichlet(np.ones(channels), size=size).astype(np.float32)
    if quantised:
        soft = np.rint(soft * 65535).astype(np.uint16)
    np.save(tmp_path / "a.npy", soft if channels_last else soft.transpose(2, 0, 1))
    assert read_probabilities(tmp_path / "a.npy").shape == (channels, *size)
    want = torch.from_numpy(soft.astype(np.float32).transpose(2, 0, 1))
    got = read_raw_probabilities(tmp_path / "a.npy")
    assert torch.equal(got.float(), want)


def test_named_npz_is_never_turned(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", probabilities=np.full((40, 50, 3), 1 / 3, np.float32))
    assert read_probabilities(tmp_path / "a.npz").shape == (40, 50, 3)


def test_tiff_says_itself_where_its_channels_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 6, 7)).astype(np.float32)
    tifffile.imwrite(tmp_path / "pages.tif", values, photometric="minisblack")
    last = np.ascontiguousarray(values.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "last.tif", last, photometric="minisblack", planarconfig="contig")
    for name in ("pages.tif", "last.tif"):
        assert torch.equal(read_probabilities(tmp_path / name), torch.from_numpy(values))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_png_in_every_mode(tmp_path: Path, mode: str) -> None:
    Image.fromarray(np.array([[0, 51, 255]], np.uint8)).convert(mode).save(tmp_path / "a.png")
    want = torch.tensor([[[0.0, 0.2, 1.0]]])
    torch.testing.assert_close(read_probabilities(tmp_path / "a.png"), want)


def test_black_and_white_png(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert read_probabilities(tmp_path / "a.png").tolist() == [[[0.0, 1.0]]]
    assert read_raw_probabilities(tmp_path / "a.png").tolist() == [[[0, 255]]]


def test_rounding_errors_are_clamped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[-5e-7, 1.0 + 5e-7]]))
    assert read_probabilities(tmp_path / "a.npy").tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([[0.0, np.nan]], r"1 of 2 values are NaN or infinite; want probabilities in \[0, 1\]"),
        ([[np.inf, -np.inf]], "2 of 2 values are NaN or infinite"),
        ([[-4.5, 7.25]], r"values from -4\.5 to 7\.25; want .*look like logits: apply a sigmoid"),
        ([[0.0, 255.0]], r"values from 0 to 255; want .*divide by 255"),
        ([[0.0, 1.01]], r"values from 0 to 1\.01; want .*cubic resizing overshot, clip"),
        ([[0, 1]], r"values of type int64 have no agreed scale; .* uint8 or uint16"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\); want \(H, W\), \(C, H, W\)"),
        (np.zeros((0, 4)), r"no pixels, shape \(0, 4\)"),
    ],
)
def test_what_are_no_probabilities_is_named(tmp_path: Path, values, text: str) -> None:
    np.save(tmp_path / "a.npy", np.asarray(values))
    np.savez(tmp_path / "a.npz", probabilities=np.asarray(values))
    for read in (read_probabilities, read_raw_probabilities):
        with pytest.raises(SegmendError, match=rf"a\.npy: .*{text}"):
            read(tmp_path / "a.npy")
        with pytest.raises(SegmendError, match=r"a\.npz: "):
            read(tmp_path / "a.npz")


def test_pictures_are_no_probabilities(tmp_path: Path) -> None:
    colour = Image.fromarray(np.array([[[9, 0, 0], [0, 9, 0]]], np.uint8))
    colour.save(tmp_path / "a.png")
    colour.convert("P").save(tmp_path / "b.png")
    with pytest.raises(SegmendError, match=r"a\.png: a PNG in colour; want grey .* \.npz"):
        read_probabilities(tmp_path / "a.png")
    with pytest.raises(SegmendError, match=r"b\.png: a palette file holds labels"):
        read_probabilities(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", PROBABILITY_SUFFIXES)
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_probabilities(path, torch.rand(1, 30, 30))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"nothing of the kind" * 9):
        path.write_bytes(damaged)
        with pytest.raises(SegmendError, match=rf"a\{suffix}: cannot be read .* cut short"):
            read_probabilities(path)
    path.write_bytes(b"")
    with pytest.raises(SegmendError, match=rf"a\{suffix}: the file is empty \(0 bytes\)"):
        read_probabilities(path)
    with pytest.raises(SegmendError, match="no such file"):
        read_probabilities(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path: Path, suffix: str) -> None:
    trap, path = np.array([{"code": "runs"}], dtype=object), tmp_path / f"a{suffix}"
    np.save(path, trap) if suffix == ".npy" else np.savez(path, probabilities=trap)
    with pytest.raises(SegmendError, match=rf"a\{suffix}: cannot be read .*allow_pickle"):
        read_probabilities(path)


@pytest.mark.parametrize(
    ("name", "probs", "text"),
    [
        ("a.jpg", torch.rand(1, 2, 2), r"suffix '\.jpg' cannot be written; want \.png, \.tif"),
        ("a.png", torch.rand(2, 2, 2), r"\.png holds one channel, got 2; write \.npz or \.tif"),
        ("a.npz", torch.rand(1, 1, 2, 2), r"got torch\.float32 \(1, 1, 2, 2\)"),
        ("a.npz", torch.ones(1, 2, 2).long(), r"got torch\.int64 \(1, 2, 2\)"),
        ("a.npz", torch.full((1, 2, 2), 3.0), "values from 3 to 3"),
        ("a.npz", torch.full((1, 2, 2), torch.nan), "4 of 4 values are NaN"),
        ("a.npz", torch.rand(1, 0, 2), r"\(1, 0, 2\)"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str, probs, text: str) -> None:
    with pytest.raises(SegmendError, match=rf"{name}: .*{text}"):
        write_probabilities(tmp_path / name, probs)
    assert list(tmp_path.iterdir()) == []


def test_bits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="bits: want 8 or 16, got 12"):
        write_probabilities(tmp_path / "a.png", torch.rand(1, 2, 2), bits=12)
