"""Archives made here, well-meant and not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from segmend.data.archives import unpack
from segmend.errors import SegmendError


def tar(members: dict[str, bytes], mode: str = "w", **changes: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


CONTENT = tar({"a": b"a" * 5000, "b": b"b"})


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\..\\evil"])
@pytest.mark.parametrize("pack", [tar, zipped])
def test_paths_that_leave_the_folder_are_refused_before_anything_is_written(
    tmp_path: Path, pack: object, name: str
) -> None:
    assert callable(pack)
    path = tmp_path / "a.archive"
    path.write_bytes(pack({"good.txt": b"good", name: b"evil"}))
    out = tmp_path / "deep" / "out"
    if name.startswith("/"):
        path.write_bytes(pack({"good.txt": b"good", str(tmp_path / "evil"): b"evil"}))
    with pytest.raises(SegmendError, match="would be written outside"):
        unpack(path, out)
    assert not out.exists()
    assert not (tmp_path / "evil").exists()


def test_links_are_refused_and_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    path, out = tmp_path / "a.tar", tmp_path / "out"
    path.write_bytes(tar({"a": b""}, type=tarfile.SYMTYPE, linkname="/etc"))
    with pytest.raises(SegmendError, match="'a' is a link or device"):
        unpack(path, out)
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(SegmendError, match="'a' is a link"):
        unpack(path, out)
    out.mkdir()
    (out / "sub").symlink_to(tmp_path)
    path.write_bytes(tar({"sub/evil": b"evil"}))
    with pytest.raises(SegmendError, match="would be written outside"):
        unpack(path, out)


@pytest.mark.parametrize("damage", ["other", "cut", "cut zip", "flipped"])
def test_damaged_archives_are_refused(tmp_path: Path, damage: str) -> None:
    squeezed = bytearray(tar({"a": bytes(range(256)) * 40}, "w:gz"))
    squeezed[12] ^= 0xFF
    content = {
        "other": b"no archive",
        "cut": CONTENT[:700],
        "cut zip": zipped({"a": b"a" * 99})[:-30],
        "flipped": bytes(squeezed),
    }[damage]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SegmendError, match=r"a\.tar: cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_all_formats_unpack(tmp_path: Path) -> None:
    members = {"a/b.txt": b"one", "c.txt": b""}
    for i, content in enumerate([tar(members), tar(members, "w:gz"), zipped(members)]):
        (tmp_path / "archive").write_bytes(content)
        unpack(tmp_path / "archive", tmp_path / str(i))
        found = {
            p.relative_to(tmp_path / str(i)).as_posix(): p.read_bytes()
            for p in (tmp_path / str(i)).rglob("*.txt")
        }
        assert found == members
