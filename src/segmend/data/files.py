"""Writing files so that a final name never holds half of its content."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segmend.errors import SegmendError

_PREFIX = ".segmend-"
_LEFTOVER = re.compile(r"^\.segmend-(?P<host>[0-9a-f]+)-(?P<pid>\d+)-[0-9a-f]+\.partial")
_swept: set[Path] = (
    set()
)  # folders that this process has cleaned: listing a folder per write is slow


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    The temporary name is hidden and has the suffix of `path`, so that writers choose the same
    format. Missing parent folders are made. On any error, `KeyboardInterrupt` included, the
    temporary file is deleted and what stood at `path` stays. A process that is killed outright
    can leave its hidden temporary file behind; the next write into that folder removes it.
    Content is not flushed to the disk (no fsync): this guards against killed runs, not against a
    power cut.

    Raises:
        SegmendError: the folder cannot be made or written to, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise SegmendError(f"{path}: is a folder; want the name of a file to write")
    temporary = path.with_name(_temporary_name(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        # Made by us, and not by mkstemp, whose 0600 would outlive the rename.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise SegmendError(
            f"{path}: cannot write here ({error.strerror}); choose an output folder that can be "
            "made and written to"
        ) from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; errors as in `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as readable JSON, whole or not at all; errors as in `atomic_write`."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _host() -> str:
    return platform.node().encode().hex()[:24] or "0"


def _temporary_name(path: Path) -> str:
    # The stem is left out: a long name plus our tag could pass the 255 bytes a name may have.
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return f"{_PREFIX}{_host()}-{os.getpid()}-{secrets.token_hex(6)}.partial{suffix}"


def _sweep(folder: Path) -> None:
    """Delete what killed processes of this machine left in `folder`, once per process."""
    folder = folder.resolve()
    if folder in _swept or os.name != "posix":  # elsewhere os.kill(pid, 0) ends the process
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_PREFIX)]
    for name in names:
        match = _LEFTOVER.match(name)
        if match and match["host"] == _host() and not _alive(int(match["pid"])):
            with suppress(OSError):
                (folder / name).unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's process, or no number of a process: not ours to judge
    return True
