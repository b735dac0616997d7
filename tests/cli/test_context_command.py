"""`segmend context compare` on tiny scans; what goes wrong is said."""

from __future__ import annotations

import json
import sys

import pytest
import typer

from segmend.cli import context
from segmend.cli.settings import bundled_recipes, resolve
from segmend.context.options import ContextOptions
from segmend.data.crowded_scenes import write_crowded_scenes
from segmend.errors import SegmendError

SMALL = [part for text in ("widths=[4,6]", "crop=16", "patch=[16,16,16]", "batch_size=2")
         for part in ("--set", text)]  # fmt: skip


def call(*words):
    app = typer.Typer()
    app.command()(context.compare)
    app([str(word) for word in words], standalone_mode=False)


def test_comparison_of_volumes_prints_both_with_an_interval(tmp_path, capsys):
    root = write_crowded_scenes(tmp_path / "data", counts=(2, 1, 2), size=(16, 16, 16))
    call("--data", root, "--out", tmp_path / "out", "--method", "plain",
         "--method", "dilate", "--epochs", 1, "--set", "splits=[2,1,2]", "--no-progress",
         *SMALL)  # fmt: skip
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "plain" in line or "dilate" in line]
    assert len(rows) == 2
    assert "[" in rows[1]
    assert (tmp_path / "out/contexts.png").is_file()


def test_pictures_are_compared_without_monai(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)  # as if it were not installed
    root = write_crowded_scenes(tmp_path / "data", counts=(12, 1, 1), size=(24, 24)) / "train"
    call("--images", root / "images", "--masks", root / "masks", "--out", tmp_path / "out",
         "--epochs", 1, "--no-progress", *SMALL)  # fmt: skip
    printed = capsys.readouterr().out
    assert "HD95: wants MONAI" in printed
    assert "segmend[medical]" in printed
    rows = json.loads((tmp_path / "out/comparison.json").read_text())["rows"]
    assert [row["scores"]["hd95"] for row in rows] == [None, None]
    assert all(0 <= row["scores"]["dice"] <= 1 for row in rows)


def test_labels_made_by_hand_are_compared(tmp_path, capsys):
    root = write_crowded_scenes(tmp_path / "data", counts=(2, 1, 2), size=(16, 16, 16))
    labels = root / "labelsTr"  # any labels will do: the target does not count
    call("--data", root, "--out", tmp_path / "out", "--method", "plain", "--method", "maps",
         "--context-maps", labels, "--epochs", 1, "--set", "splits=[2,1,2]", "--no-progress",
         *SMALL)  # fmt: skip
    assert "maps" in capsys.readouterr().out
    assert (tmp_path / "out/contexts.png").is_file()
    with pytest.raises(SegmendError, match="wants --context-maps"):
        call("--data", root, "--out", tmp_path / "o", "--method", "plain", "--method", "maps")


def test_unknown_methods_are_refused(tmp_path):
    write_crowded_scenes(tmp_path, counts=(2, 1, 2), size=(16, 16, 16))
    with pytest.raises(SegmendError, match="unknown 'magic'"):
        call("--data", tmp_path, "--out", tmp_path / "o", "--method", "magic")


def test_recipes_of_context_are_valid():
    names = [name for name in bundled_recipes() if name.startswith("context")]
    assert len(names) >= 8
    for name in names:
        assert resolve(ContextOptions, bundled_recipes()[name]).num_context >= 2
