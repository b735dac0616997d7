"""Downloads from a server on this machine: resumed, verified, unpacked without surprises."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_archives import tar
from torchvision.datasets.voc import DATASET_YEAR_DICT

from segmend.data.download import (
    DATASETS,
    Archive,
    fetch,
    get_archives,
    read_checksums,
)
from segmend.errors import SegmendError


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `cut` is how many bytes it sends before it hangs up; notes ranges asked."""

    daemon_threads = True
    files: dict[str, bytes]
    cut: int | None = None
    ranges_allowed = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {}, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name, wanted = self.path.removeprefix("/mirror/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.ranges_allowed:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


NAME = DATASETS["voc2012"][0].name
CONTENT = tar({"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"a" * 5000, "VOCdevkit/b.txt": b"b"})


def test_addresses_and_checksum_of_voc_are_torchvisions() -> None:
    known, ours = DATASET_YEAR_DICT["2012"], DATASETS["voc2012"][0]
    assert (ours.url, ours.md5, ours.name) == (known["url"], known["md5"], known["filename"])


def test_get_unpacks_once_and_leaves_no_archive(server: Server, tmp_path: Path) -> None:
    server.files[NAME] = CONTENT
    seen = []
    options = {"base_url": server.url, "checksums": {NAME: md5(CONTENT)}}
    get_archives("voc2012", tmp_path, **options, on_bytes=lambda *x: seen.append(x))
    assert (tmp_path / "VOCdevkit/VOC2012/JPEGImages/a.jpg").read_bytes() == b"a" * 5000
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))
    assert not (tmp_path / NAME).exists()
    assert not list(tmp_path.glob("*.partial"))
    get_archives("voc2012", tmp_path, **options)
    assert len(server.asked) == 1


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    archive = Archive(f"{server.url}/a.tar", md5(CONTENT))
    server.files["a.tar"], server.cut = CONTENT, 3000
    with pytest.raises(
        SegmendError, match=r"a\.tar: the transfer broke off .*run the same command"
    ):
        fetch(archive, tmp_path)
    assert not (tmp_path / "a.tar").exists()
    server.cut = None
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("a.tar", None), ("a.tar", "bytes=3000-")]
    fetch(archive, tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize("ranges_allowed", [True, False])
def test_partial_files_whole_or_of_another_time(
    server: Server, tmp_path: Path, ranges_allowed: bool
) -> None:
    server.files["a.tar"], server.ranges_allowed = CONTENT, ranges_allowed
    archive = Archive(f"{server.url}/a.tar", md5(CONTENT))
    (tmp_path / "a.tar.partial").write_bytes(CONTENT)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT
    (tmp_path / "a.tar").unlink()
    (tmp_path / "a.tar.partial").write_bytes(b"x" * 100)
    if ranges_allowed:  # joined to what is not its beginning: the checksum notices
        with pytest.raises(SegmendError, match=r"the file's MD5 is .*; want .*it was deleted"):
            fetch(archive, tmp_path)
    assert fetch(archive, tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_unpacks_nothing(server: Server, tmp_path: Path) -> None:
    server.files[NAME] = CONTENT
    with pytest.raises(SegmendError, match="MD5 is"):
        get_archives("voc2012", tmp_path, base_url=server.url)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_fetched_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="the server answers 404"):
        get_archives("voc2012", tmp_path, base_url=server.url)
    with pytest.raises(SegmendError, match="unknown data set 'voc2013'; want one of voc2012"):
        get_archives("voc2013", tmp_path)
    with pytest.raises(SegmendError, match="want an address that starts with http"):
        get_archives("voc2012", tmp_path, base_url="file:///etc")
    with pytest.raises(SegmendError, match="broke off"):
        fetch(Archive("http://127.0.0.1:9/a.tar", ""), tmp_path)


def test_checksums_as_md5sum_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "MD5SUMS"
    path.write_text(f"{'a' * 32}  ./x/train.zip\n\n{'B' * 32} *val.zip\n")
    assert read_checksums(path) == {"train.zip": "a" * 32, "val.zip": "b" * 32}
    path.write_text(f"{'a' * 32}  a\nnonsense b\n")
    with pytest.raises(SegmendError, match="MD5SUMS, line 2: want 'MD5  file name'"):
        read_checksums(path)
    with pytest.raises(SegmendError, match="cannot be read"):
        read_checksums(tmp_path / "none")
