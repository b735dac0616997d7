"""Atomic writing: what stands under a final name is whole, whatever happens to the writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from segmend.data.files import atomic_write, write_json, write_text
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.errors import SegmendError


def test_content_appears_under_the_final_name_alone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.png"
    with atomic_write(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"whole")
        assert not target.exists()
        inode = temporary.stat().st_ino
    assert target.stat().st_ino == inode  # renamed: a copy could be seen half done
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["a.png"]


def test_double_suffix_of_a_volume_is_kept(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "brain.v2.nii.gz") as temporary:
        assert temporary.name.endswith(".partial.nii.gz")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_the_old_file_and_leaves_no_trace(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("")
    write_text(ours, "")
    assert ours.stat().st_mode == plain.stat().st_mode


def test_longest_file_name_that_the_system_allows(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".txt")
    write_text(target, "x")
    assert target.read_text() == "x"


def test_json_is_utf8_and_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Käse": [1, 2.5, None]})
    content = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Käse" in content
    assert json.loads(content) == {"Käse": [1, 2.5, None]}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x"),
        lambda path: write_mask(path, torch.ones(2, 2, dtype=torch.bool)),
        lambda path: write_image(path, torch.rand(3, 2, 2)),
        lambda path: write_probabilities(path, torch.rand(1, 2, 2)),
    ],
)
def test_unwritable_folder_is_named(tmp_path: Path, write) -> None:
    (tmp_path / "file").write_text("not a folder")
    target = tmp_path / "file" / "below" / "a.png"
    with pytest.raises(SegmendError, match=r"file/below/a\.png: cannot write here .* choose"):
        write(target)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="is a folder; want the name of a file"):
        write_text(tmp_path, "x")


KILLED = """
    import sys, time
    from pathlib import Path
    from segmend.data.files import atomic_write
    with atomic_write(sys.argv[1]) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"half of the")
            file.flush()
            print("written", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize("old", [None, "old and whole"])
def test_killed_run_leaves_nothing_half_written(tmp_path: Path, old: str | None) -> None:
    target = tmp_path / "map.png"
    if old is not None:
        target.write_text(old)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL
    visible = [name for name in os.listdir(tmp_path) if not name.startswith(".")]
    assert visible == ([] if old is None else ["map.png"])
    assert old is None or target.read_text() == old
    # The next run into this folder also removes the hidden remains of the killed one.
    write_text(tmp_path / "next.txt", "x")
    assert all(not name.startswith(".") for name in os.listdir(tmp_path))


def test_a_live_writer_keeps_its_temporary_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as temporary:
        script = (
            "import sys; from segmend.data.files import write_text; write_text(sys.argv[1], '')"
        )
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "b.txt")], check=True)
        assert temporary.exists()
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]
