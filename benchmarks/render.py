"""Fill the tables of docs/ and README from benchmarks/results/*.json; none is typed by hand.

A page says where a table goes: between `<!-- begin:NAME -->` and `<!-- end:NAME -->`.

    python benchmarks/render.py            write the pages
    python benchmarks/render.py --check    exit 1 if a page is not what the results give
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
PLACE = re.compile(r"(<!-- begin:(?P<name>[\w-]+) -->\n).*?(<!-- end:(?P=name) -->)", re.DOTALL)
NOT_MEASURED = "_Not measured yet._\n"


def cell(value: Any) -> str:
    """A value as it stands in a table: four significant digits, `–` for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def table(outcome: dict[str, Any]) -> str:
    """One outcome as a markdown table with its notes below, and how it was measured, if it was."""
    rows = outcome["rows"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    below = [f"- {note}" for note in outcome.get("notes", [])]
    if "machine" in outcome:
        below.append(f"- Made by `{outcome['command']}` on {outcome['machine']}.")
    return "\n".join([*lines, "", *below, *([""] if below else [])])


def render(pages: dict[Path, str], outcomes: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """The pages with every table filled in.

    Raises:
        ValueError: an outcome has no place on any page.
    """
    places = {match["name"] for page in pages.values() for match in PLACE.finditer(page)}
    homeless = sorted(outcomes.keys() - places)
    if homeless:
        raise ValueError(
            f"no place on a page for {', '.join(homeless)}: add <!-- begin:{homeless[0]} --> "
            f"and <!-- end:{homeless[0]} --> on lines of their own"
        )

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        body = table(outcomes[name]) if name in outcomes else NOT_MEASURED
        return f"{match[1]}\n{body}\n{match[3]}"

    return {path: PLACE.sub(fill, page) for path, page in pages.items()}


def read_outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """All outcomes in a folder, by name; other JSON files (a run record) are passed over."""
    contents = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return {content["name"]: content for content in contents if "rows" in content}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the pages; README is beside it")
    parser.add_argument("--out", type=Path, help="folder for the pages; default: where they are")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    options = parser.parse_args()
    readme = options.docs.parent / "README.md"
    paths = [*([readme] if readme.exists() else []), *sorted(options.docs.rglob("*.md"))]
    old = {path: path.read_text("utf-8") for path in paths}
    old = {path: page for path, page in old.items() if PLACE.search(page)}
    new = render(old, read_outcomes(options.results))
    stale = [path for path in new if new[path] != old[path]]
    if options.check:
        for path in stale:
            print(f"{path}: stale; run python benchmarks/render.py", file=sys.stderr)
        return int(bool(stale))
    for path in new if options.out else stale:
        place = readme.name if path == readme else path.relative_to(options.docs)
        target = options.out / place if options.out else path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(new[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
