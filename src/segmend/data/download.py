"""Public data sets from their official servers: resumed, verified, then unpacked safely."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from segmend.data.archives import unpack
from segmend.data.files import write_text
from segmend.errors import SegmendError

_CHUNK = 1 << 20
_TIMEOUT_S = 60.0
_COCO = "http://images.cocodataset.org"

OnBytes = Callable[[str, int, "int | None"], None]  # (archive, bytes so far, of how many)


@dataclass(frozen=True)
class Archive:
    """One file to fetch: its address and the MD5 that it must have."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


# VOC, SBD: address and checksum as in torchvision. COCO publishes none: these are what its own
# files have, as several libraries state them.
DATASETS: dict[str, tuple[Archive, ...]] = {
    "voc2012": (
        Archive(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "sbd": (
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
            "semantic_contours/benchmark.tgz",
            "82b4d87ceb2ed10f6038a1cba92111cb",
        ),
    ),
    "coco2014": (
        Archive(
            f"{_COCO}/annotations/annotations_trainval2014.zip", "0a379cfc70b0e71301e0f377548639bd"
        ),
        Archive(f"{_COCO}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88"),
        Archive(f"{_COCO}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3"),
    ),
    "coco2017": (
        Archive(
            f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c"
        ),
        Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
        Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    ),
}


def get_archives(
    name: str,
    out: str | Path,
    *,
    base_url: str | None = None,
    checksums: Mapping[str, str] | None = None,
    keep_archives: bool = False,
    on_bytes: OnBytes | None = None,
) -> Path:
    """Download and unpack a data set into `out`; what an earlier run has done is not done again.

    Args:
        name: of `DATASETS`.
        base_url: another server, which has the archives as `<base_url>/<file name>`.
        checksums: MD5 by file name, for a mirror that has packed the files anew.
        keep_archives: keep the downloaded files beside what was in them.
        on_bytes: called as a download goes on.
    Raises:
        SegmendError: unknown name, no connection or a broken one (run again to go on), a wrong
            checksum (the file is deleted), no room, an archive that is damaged or that would
            write outside `out`.
    """
    if name not in DATASETS:
        raise SegmendError(f"unknown data set {name!r}; want one of {', '.join(DATASETS)}")
    out = Path(out)
    for archive in DATASETS[name]:
        if base_url is not None:
            archive = replace(archive, url=f"{base_url.rstrip('/')}/{archive.name}")
        archive = replace(archive, md5=(checksums or {}).get(archive.name, archive.md5))
        done = out / f".{archive.name}.done"
        if done.is_file() and done.read_text("utf-8").strip() == archive.md5:
            continue
        path = fetch(archive, out, on_bytes=on_bytes)
        unpack(path, out)
        write_text(done, archive.md5 + "\n")
        if not keep_archives:
            path.unlink()
    return out


def fetch(archive: Archive, folder: str | Path, *, on_bytes: OnBytes | None = None) -> Path:
    """Download one file into `folder`; under its own name only once its checksum is right.

    Goes on with the `.partial` file of an earlier run where the server allows it. Errors as in
    `get_archives`.
    """
    path = Path(folder) / archive.name
    if path.is_file() and _md5(path) == archive.md5:
        return path
    if not archive.url.startswith(("http://", "https://")):
        raise SegmendError(f"{archive.url}: want an address that starts with http:// or https://")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _transfer(archive, partial, on_bytes)
    except urllib.error.HTTPError as error:
        raise SegmendError(f"{archive.url}: the server answers {error.code} {error.reason}") from (
            error
        )
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise SegmendError(
            f"{archive.url}: the transfer broke off ({error}); run the same command again to go on"
        ) from error
    found = _md5(partial)
    if found != archive.md5:
        partial.unlink()
        raise SegmendError(
            f"{archive.url}: the file's MD5 is {found}; want {archive.md5}; it was deleted: run "
            "again, or give the checksums of your mirror"
        )
    os.replace(partial, path)
    return path


def read_checksums(path: str | Path) -> dict[str, str]:
    """MD5 by file name from the lines that `md5sum` writes."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SegmendError(f"{path}: cannot be read ({error}); want what md5sum writes") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        md5, _, name = line.strip().partition(" ")
        name = PurePosixPath(name.strip().lstrip("*")).name
        if len(md5) != 32 or set(md5.lower()) - set("0123456789abcdef") or not name:
            raise SegmendError(f"{path}, line {number}: want 'MD5  file name', got {line!r}")
        found[name] = md5.lower()
    return found


def _transfer(archive: Archive, partial: Path, on_bytes: OnBytes | None) -> None:
    start = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "segmend"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing: the checksum says whether that is so
        raise
    with closing(response):
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends it all again
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        free = shutil.disk_usage(partial.parent).free
        if total is not None and total - start > free:
            raise SegmendError(f"{partial.parent}: {free >> 20} MiB free; want {total >> 20} MiB")
        with partial.open("ab" if start else "wb") as file:
            done = start
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(archive.name, done, total)
    if total is not None and done < total:
        raise ConnectionError(f"{done} of {total} bytes came")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
