"""The tables of README and of the methods' pages: rows of other tables, found again there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


def summary(results: Path, out: Path) -> Any:
    command = [sys.executable, str(BENCHMARKS / "summary.py")]
    command += ["--results", str(results), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What was measured, without what was put together from it."""
    folder = tmp_path / "results"
    folder.mkdir()
    for path in RESULTS.glob("*.json"):
        if not path.name.startswith("summary_"):
            (folder / path.name).write_text(path.read_text("utf-8"), "utf-8")
    return folder


def change(path: Path, wanted: dict[str, Any], cells: dict[str, Any] | None) -> None:
    """Other cells in the one row that is like `wanted`; None: without that row."""
    outcome = json.loads(path.read_text("utf-8"))
    [row] = [row for row in outcome["rows"] if wanted.items() <= row.items()]
    outcome["rows"].remove(row)
    if cells is not None:
        outcome["rows"].append(row | cells)
    path.write_text(json.dumps(outcome), "utf-8")


def test_they_are_what_the_other_tables_say(results: Path, tmp_path: Path) -> None:
    done = summary(results, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    assert made == {p.name: p.read_text("utf-8") for p in RESULTS.glob("summary_*.json")}, (
        "stale; run python benchmarks/summary.py"
    )


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ("+9.9 [0.1, 12.0]", "**+9.9** [0.1, 12.0]"),
        ("+9.9 [-0.0, 12.0]", "+9.9 [-0.0, 12.0]"),
        ("-9.9 [-12.0, -0.1]", "-9.9 [-12.0, -0.1]"),
    ],
)
def test_another_measurement_is_told_and_bold_only_above_zero(
    results: Path, tmp_path: Path, measured: str, told: str
) -> None:
    wanted = {"set": "scenes", "recipe": "cam", "of": "maps, test images"}
    cells = {"plain": "11.1", "`++`": "22.2", "mIoU, difference": measured, "seeds": 7}
    change(results / "tags_overview.json", wanted, cells)
    summary(results, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "summary_tags.json").read_text("utf-8"))["rows"]
    assert rows[0]["procedural scenes"] == f"11.1 → 22.2, {told} (7)"


def test_a_row_that_is_not_there_is_named(results: Path, tmp_path: Path) -> None:
    change(results / "context_gain_nuclei.json", {"method": "plain"}, None)
    done = summary(results, tmp_path / "out")
    assert done.returncode != 0
    assert "context_gain_nuclei: 0 rows with {'method': 'plain'}" in done.stderr
