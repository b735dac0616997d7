"""Links lead somewhere, and pages made from other files are what those files give."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_lead_to_files(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_benchmark_tables_are_what_was_measured() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "render.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_suite_names_scripts_that_exist() -> None:
    suite = yaml.safe_load((ROOT / "benchmarks" / "suite.yaml").read_text("utf-8"))
    for name, entry in suite.items():
        assert (ROOT / "benchmarks" / entry["script"]).is_file(), name


def test_the_citation_names_the_four_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    titles = [reference["title"] for reference in citation["references"]]
    for word in ("PatchRefineNet", "High-fidelity", "Out-of-Candidate", "Context Label"):
        assert sum(word in title for title in titles) == 1
    for reference in citation["references"]:
        assert reference["authors"]
        assert reference["year"] in (2023, 2024)


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in menu
