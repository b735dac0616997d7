"""Unpacking a stranger's archive: plain files only, and none outside the folder."""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from segmend.data.files import atomic_write
from segmend.errors import SegmendError

_CHUNK = 1 << 20
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
)


def unpack(path: str | Path, out: str | Path) -> None:
    """Unpack a .tar, .tgz or .zip into `out`: plain files and folders only, none outside `out`.

    All names are looked at before the first file is written.

    Raises:
        SegmendError: damaged, another format, a link or device, a path that leaves `out`.
    """
    path, out = Path(path), Path(out)
    try:
        for name, _ in _members(path, open_them=False):
            _inside(path, out, name)
        for name, content in _members(path, open_them=True):
            if content is not None:
                _write(content, _inside(path, out, name))
    except _DAMAGED as error:
        raise SegmendError(f"{path}: cannot be unpacked ({error}); delete it and run again") from (
            error
        )


def _members(path: Path, *, open_them: bool) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of every member; content None for folders, and unless asked for."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise SegmendError(f"{path}: {info.filename!r} is a link; nothing was unpacked")
                read = open_them and not info.is_dir()
                yield info.filename, archive.open(info) if read else None
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise SegmendError(f"{path}: {member.name!r} is a link or device; want plain files")
            yield member.name, tar.extractfile(member) if open_them and member.isfile() else None


def _write(content: IO[bytes], to: Path) -> None:
    with closing(content), atomic_write(to) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)


def _inside(path: Path, out: Path, name: str) -> Path:
    target = (out / name).resolve()
    if "\\" in name or not target.is_relative_to(out.resolve()):
        raise SegmendError(f"{path}: {name!r} would be written outside {out}; nothing was unpacked")
    return target
