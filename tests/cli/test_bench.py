"""`segmend bench`: which scripts run, where their outcomes go, and what a missed goal does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segmend.cli.bench import Benchmark, BenchOptions, choose, read_suite
from segmend.cli.main import build_app
from segmend.errors import SegmendError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
name, status, _, out = sys.argv[1:]
outcome = {"name": name, "command": "c", "machine": "m", "rows": [{"a": 1.5}], "notes": []}
open(out, "w").write(json.dumps(outcome))
sys.exit(int(status))
"""
SUITE = """
fine: {script: s.py, arguments: [fine, "0"]}
missed: {script: s.py, arguments: [missed, "1"], quick: false}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "s.py").write_text(SCRIPT)
    (folder / "suite.yaml").write_text(SUITE)
    shutil.copy(ROOT / "benchmarks" / "render.py", folder)
    (tmp_path / "docs").mkdir()
    marks = "".join(f"<!-- begin:{n} -->\n<!-- end:{n} -->\n" for n in ("fine", "missed"))
    (tmp_path / "docs" / "benchmarks.md").write_text(marks)
    return folder


def bench(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(["bench"]), ["bench", *words])
    return result.exit_code, result.output


def test_the_quick_ones_run_and_fill_the_page(checkout: Path) -> None:
    status, output = bench("--from", str(checkout))
    assert status == 0, output
    page = (checkout.parent / "docs" / "benchmarks.md").read_text()
    assert "| 1.5 |" in page
    assert page.count("Not measured yet") == 1
    assert [p.name for p in (checkout / "results").iterdir()] == ["fine.json"]


def test_with_out_the_checkout_stays_as_it_is(checkout: Path, tmp_path: Path) -> None:
    before = (checkout.parent / "docs" / "benchmarks.md").read_text()
    out = tmp_path / "out"
    status, output = bench("--from", str(checkout), "--out", str(out))
    assert status == 0, output
    assert (checkout.parent / "docs" / "benchmarks.md").read_text() == before
    assert "| 1.5 |" in (out / "benchmarks.md").read_text()
    assert json.loads((out / "run.json").read_text())["command"] == "bench"
    assert bench("--from", str(checkout), "--out", str(out))[0] == 0  # a record is no outcome


def test_a_missed_goal_is_named_and_its_table_is_kept(checkout: Path) -> None:
    status, output = bench("--from", str(checkout), "--slow")
    assert status == 2
    assert "failed or missed their goal: missed" in output
    assert (checkout.parent / "docs" / "benchmarks.md").read_text().count("| 1.5 |") == 2


def test_outside_a_checkout_the_error_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match=r"suite\.yaml: not found; .* --from CHECKOUT"):
        read_suite(tmp_path)


def test_choice() -> None:
    suite = {"a": Benchmark(script="a.py"), "b": Benchmark(script="b.py", quick=False)}
    assert list(choose(suite, BenchOptions())) == ["a"]
    assert list(choose(suite, BenchOptions(slow=True))) == ["a", "b"]
    assert list(choose(suite, BenchOptions(only=("b",)))) == ["b"]
    with pytest.raises(SegmendError, match=r"--only c: unknown; known: a, b"):
        choose(suite, BenchOptions(only=("c",)))
