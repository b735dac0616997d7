"""The tables of the benchmarks page: what goes where, and what cannot get lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RENDER = Path(__file__).resolve().parents[2] / "benchmarks" / "render.py"
OUTCOME: dict[str, Any] = {
    "name": "speed",
    "command": "python benchmarks/speed.py",
    "machine": "a machine",
    "rows": [{"what": "a|b", "ratio": 12.34567, "equal": True}, {"what": "c", "seconds": None}],
    "notes": ["a note"],
}
PAGE = "# Top\n\n<!-- begin:speed -->\nold\n<!-- end:speed -->\n\ntext\n"


def render(folder: Path, page: str, *outcomes: dict[str, Any], check: bool = False) -> Any:
    results = folder / "results"
    results.mkdir(exist_ok=True)
    for outcome in outcomes:
        (results / f"{outcome['name']}.json").write_text(json.dumps(outcome))
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "page.md").write_text(page)
    command = [sys.executable, str(RENDER), "--results", str(results)]
    command += ["--docs", str(folder / "docs"), *(["--check"] if check else [])]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    assert render(tmp_path, PAGE, OUTCOME).returncode == 0
    assert (tmp_path / "docs" / "page.md").read_text() == (
        "# Top\n\n<!-- begin:speed -->\n\n"
        "| what | ratio | equal | seconds |\n"
        "| --- | --- | --- | --- |\n"
        "| a\\|b | 12.35 | yes | – |\n"
        "| c | – | – | – |\n"
        "\n"
        "- a note\n"
        "- Made by `python benchmarks/speed.py` on a machine.\n"
        "\n<!-- end:speed -->\n\ntext\n"
    )


def test_rendering_twice_changes_nothing_and_check_sees_staleness(tmp_path: Path) -> None:
    render(tmp_path, PAGE, OUTCOME)
    page = (tmp_path / "docs" / "page.md").read_text()
    assert render(tmp_path, page, check=True).returncode == 0
    assert render(tmp_path, page.replace("12.35", "99"), check=True).returncode == 1


def test_a_place_without_an_outcome_says_so(tmp_path: Path) -> None:
    render(tmp_path, PAGE)
    assert "Not measured yet" in (tmp_path / "docs" / "page.md").read_text()


@pytest.mark.parametrize("page", ["# no place\n", PAGE.replace("end:speed", "end:other")])
def test_an_outcome_without_a_place_is_an_error(tmp_path: Path, page: str) -> None:
    done = render(tmp_path, page, OUTCOME)
    assert done.returncode != 0
    assert "no place on a page for speed" in done.stderr
    assert (tmp_path / "docs" / "page.md").read_text() == page


def test_tables_may_be_on_several_pages(tmp_path: Path) -> None:
    other = OUTCOME | {"name": "size"}
    (tmp_path / "docs" / "methods").mkdir(parents=True)
    (tmp_path / "docs" / "methods" / "deep.md").write_text(PAGE.replace("speed", "size"))
    (tmp_path / "docs" / "plain.md").write_text("# No table\n")
    assert render(tmp_path, PAGE, OUTCOME, other).returncode == 0
    assert "12.35" in (tmp_path / "docs" / "methods" / "deep.md").read_text()
    assert (tmp_path / "docs" / "plain.md").read_text() == "# No table\n"
    done = render(tmp_path, PAGE, check=True)
    assert done.returncode == 1
    assert "page.md: stale" in done.stderr
    assert "deep.md" not in done.stderr


def test_what_was_put_together_from_other_outcomes_names_no_machine(tmp_path: Path) -> None:
    made = {key: value for key, value in OUTCOME.items() if key not in ("machine", "notes")}
    assert render(tmp_path, PAGE, made).returncode == 0
    page = (tmp_path / "docs" / "page.md").read_text()
    assert page.endswith("| c | – | – | – |\n\n<!-- end:speed -->\n\ntext\n")


def test_readme_beside_the_docs_is_filled_too(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(PAGE)
    assert render(tmp_path, "# no table\n", OUTCOME).returncode == 0
    assert "12.35" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(PAGE)
    done = render(tmp_path, "# no table\n", OUTCOME, check=True)
    assert done.returncode == 1
    assert "README.md: stale" in done.stderr
