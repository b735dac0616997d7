"""Images of every kind, against Pillow's own arrays and against numbers written by hand."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segmend.data.images import IMAGE_SUFFIXES, read_image, write_image
from segmend.errors import SegmendError

RGB = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3) * 8
GREY = RGB[..., 0]
LOSSLESS = [".png", ".tif", ".tiff", ".bmp", ".npy"]


def expected(rgb: np.ndarray, peak: float = 255.0) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(rgb, -1, 0).astype(np.float64) / peak).float()


@given(
    st.sampled_from(LOSSLESS),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(tmp_path_factory, suffix: str, size: tuple[int, int], seed: int) -> None:
    image = torch.rand((3, *size), generator=torch.Generator().manual_seed(seed))
    path = tmp_path_factory.mktemp("images") / f"a{suffix}"
    write_image(path, image)
    again = read_image(path)
    assert again.dtype == torch.float32
    assert again.is_contiguous()
    tolerance = 0.0 if suffix == ".npy" else 0.5 / 255 + 1e-6
    torch.testing.assert_close(again, image, atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_round_trip_is_close(tmp_path: Path, suffix: str) -> None:
    ramp = torch.linspace(0.2, 0.8, 16).expand(3, 16, 16).contiguous()
    write_image(tmp_path / f"a{suffix}", ramp)
    torch.testing.assert_close(read_image(tmp_path / f"a{suffix}"), ramp, atol=0.02, rtol=0.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_agrees_with_pillow_in_every_mode(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a{suffix}"
    try:
        Image.fromarray(RGB).convert(mode).save(path)
    except OSError:
        pytest.fail(f"{mode} as {suffix}") if mode in ("RGB", "L", "1", "P") else None
        return
    with Image.open(path) as image:
        want = np.asarray(image.convert("RGB"))
    torch.testing.assert_close(read_image(path), expected(want), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", None])
def test_compressed_tiff(tmp_path: Path, compression: str | None) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.tif", compression=compression)
    assert torch.equal(read_image(tmp_path / "a.tif"), expected(RGB))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_16_bit_grey_is_divided_by_65535(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 256], [32768, 65534, 65535]], dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    np.save(path, values) if suffix == ".npy" else Image.fromarray(values).save(path)
    torch.testing.assert_close(read_image(path), expected(np.stack([values] * 3, -1), 65535.0))


def test_16_bit_colour_tiff(tmp_path: Path) -> None:
    values = RGB.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", byteorder=">")
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), expected(values, 65535.0))


def test_planar_tiff(tmp_path: Path) -> None:
    planar = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    tifffile.imwrite(tmp_path / "a.tif", planar, photometric="rgb", planarconfig="separate")
    assert torch.equal(read_image(tmp_path / "a.tif"), expected(RGB))


def test_white_is_zero_tiff_is_turned_round(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", 255 - GREY, photometric="miniswhite")
    assert torch.equal(read_image(tmp_path / "a.tif"), expected(np.stack([GREY] * 3, -1)))


@pytest.mark.parametrize(("bits", "peak"), [(1, 1), (2, 3), (4, 15)])
def test_png_of_few_bits(tmp_path: Path, bits: int, peak: int) -> None:
    (tmp_path / "a.png").write_bytes(grey_png(bits, [[0, 1, peak]]))
    want = torch.tensor([[0.0, 1.0 / peak, 1.0]]).expand(3, 1, 3)
    torch.testing.assert_close(read_image(tmp_path / "a.png"), want)


def grey_png(bits: int, rows: list[list[int]]) -> bytes:
    """A PNG put together by hand: Pillow does not write grey of 2 or 4 bits."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    packed = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        packed += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((3, 4, 5), False), ((5, 5, 3), True), ((9, 5, 4), True), ((1, 4, 5), False),
     ((9, 5, 1), True), ((1, 7, 3), True), ((3, 4, 3), False), ((4, 7, 6), False)],
)  # fmt: skip
def test_npy_layouts(tmp_path: Path, shape: tuple[int, ...], channels_last: bool) -> None:
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    channels = np.moveaxis(values, -1, 0) if channels_last else values
    want = torch.from_numpy(np.ascontiguousarray(channels[:3])).expand(3, -1, -1)
    assert torch.equal(read_image(tmp_path / "a.npy"), want)


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 2, 5)


def test_missing_folder_suffix_and_empty_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "a.gif").write_bytes(b"GIF")
    for name, text in [
        ("no.png", "no such file"), ("folder.png", "is a folder"), ("a.gif", r"want \.png, \.jpg"),
    ]:  # fmt: skip
        with pytest.raises(SegmendError, match=rf"{name}: .*{text}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"bad{suffix}"
    write_image(whole, torch.rand(3, 40, 40))
    content = whole.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(SegmendError, match=rf"bad\{suffix}: the file is empty \(0 bytes\)"):
        read_image(path)
    for damaged in (content[: len(content) // 2], content[:9], b"no picture at all " * 9):
        path.write_bytes(damaged)
        with pytest.raises(SegmendError, match=rf"bad\{suffix}: cannot be read .* cut short"):
            read_image(path)


@given(st.sampled_from(IMAGE_SUFFIXES), st.data())
def test_any_bytes_give_an_image_or_our_error(tmp_path_factory, suffix: str, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    buffer = bytearray(_whole(suffix, folder))
    for _ in range(data.draw(st.integers(1, 8))):
        buffer[data.draw(st.integers(0, len(buffer) - 1))] = data.draw(st.integers(0, 255))
    (folder / f"b{suffix}").write_bytes(bytes(buffer))
    with suppress(SegmendError):  # nothing else may come out
        image = read_image(folder / f"b{suffix}")
        assert image.shape[0] == 3
        assert float(image.min()) >= 0.0
        assert float(image.max()) <= 1.0


def _whole(suffix: str, folder: Path) -> bytes:
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, RGB)
        return buffer.getvalue()
    Image.fromarray(RGB).save(folder / f"whole{suffix}")
    return (folder / f"whole{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.full((2, 2), 2.5), r"float pixels from 2\.5 to 2\.5; want \[0, 1\]"),
        (np.full((2, 2), np.nan), r"from nan to nan; want \[0, 1\] without NaN"),
        (np.zeros((2, 2), np.int64), "pixels of type int64 have no agreed scale"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"shape \(2, 2, 2, 2\); want one image"),
        (np.zeros((5, 6, 7), np.uint8), r"shape \(5, 6, 7\); want one image"),
        (np.zeros((0, 2), np.uint8), r"no pixels, shape \(0, 2\)"),
        (np.zeros((2, 2), complex), "array of complex128, want numbers"),
        (np.array([{}, {}]), "cannot be read"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, values: np.ndarray, text: str) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(SegmendError, match=rf"a\.npy: .*{text}"):
        read_image(tmp_path / "a.npy")


def test_stack_of_pages_is_no_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(SegmendError, match=r"a\.tif: an array of shape \(3, 4, 5\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("a.png", torch.rand(1, 2, 2), r"want a float image \(3, H, W\), got torch\.float32"),
        ("a.png", torch.ones(3, 2, 2, dtype=torch.uint8), r"got torch\.uint8 \(3, 2, 2\)"),
        ("a.png", torch.full((3, 2, 2), 1.5), r"from 1\.5 to 1\.5; want \[0, 1\]"),
        ("a.gif", torch.rand(3, 2, 2), r"suffix '\.gif' cannot be written"),
    ],
)
def test_unwritable_images_are_named(tmp_path: Path, name: str, image, text: str) -> None:
    with pytest.raises(SegmendError, match=rf"{name}: .*{text}"):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_huge_image_says_how_to_allow_it(tmp_path: Path, monkeypatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(SegmendError, match=r"a\.png: .*tiles, or raise PIL\.Image\.MAX_IMAGE"):
        read_image(tmp_path / "a.png")
