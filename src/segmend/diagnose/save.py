"""A diagnosis as a file (.html, .json, .csv), as a table for pandas, and read back from JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from markupsafe import Markup

from segmend.data.files import write_text
from segmend.diagnose.report.payload import plain
from segmend.diagnose.report.ranking import main_fix
from segmend.diagnose.report.words import interval, percent, points, whole
from segmend.diagnose.result import Diagnosis
from segmend.errors import SegmendError

SUFFIXES = (".html", ".json", ".csv")
SHOWN = 6
"""Fixes in a notebook's summary."""


def save(
    diagnosis: Diagnosis,
    path: str | Path,
    *,
    against: Diagnosis | None = None,
    mended: Diagnosis | None = None,
    num_pictures: int | None = None,
) -> Path:
    """Write a diagnosis; the suffix of `path` says how. The file appears whole or not at all.

    Args:
        path: `.html` (the report, one file that works offline), `.json` (all numbers; a value
            that does not exist is null) or `.csv` (one row an image).
        against: of the same images, in the report only: another model's, to compare with.
        mended: of the same images, in the report only: after mending, for before and after.
        num_pictures: images in the report's gallery; 36 by default, 0 for none.
    Returns:
        The path written to.
    Raises:
        SegmendError: another suffix, a folder that cannot be written to, or `against` or
            `mended` of other images.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".html":
        from segmend.diagnose.report.html import GALLERY, render_html

        count = GALLERY if num_pictures is None else num_pictures
        text = render_html(diagnosis, against=against, mended=mended, num_pictures=count)
    elif suffix == ".json":
        text = to_json(diagnosis)
    elif suffix == ".csv":
        text = to_csv(diagnosis)
    else:
        raise SegmendError(f"{path}: want a name that ends in {', '.join(SUFFIXES)}")
    write_text(path, text)
    return path


def to_json(diagnosis: Diagnosis) -> str:
    """All numbers as JSON text; NaN as null."""
    content = plain(diagnosis.to_dict())
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def rows(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """One dict an image: index, name, score, main error, and the gain of each fix by its key."""
    found = []
    for row in diagnosis.images:
        place = main_fix(row, diagnosis.fixes)
        found.append(
            {
                "index": row.index,
                "name": row.name,
                "score": row.score,
                "main_error": None if place is None else diagnosis.fixes[place].key,
                **{f"gain:{fix.key}": row.gains.get(fix.key) for fix in diagnosis.fixes},
            }
        )
    return found


def header(diagnosis: Diagnosis) -> list[str]:
    """Names of the columns of `rows`."""
    return ["index", "name", "score", "main_error", *(f"gain:{f.key}" for f in diagnosis.fixes)]


def to_csv(diagnosis: Diagnosis) -> str:
    """`rows` as CSV text; an empty cell where there is no value.

    A name that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, header(diagnosis), lineterminator="\n")
    writer.writeheader()
    for row in plain(rows(diagnosis)):
        name = row["name"]
        writer.writerow({**row, "name": f"'{name}" if name[:1] in "=+-@\t\r" and name else name})
    return file.getvalue()


def to_dataframe(diagnosis: Diagnosis) -> Any:
    """`rows` as a pandas DataFrame, one row an image.

    Raises:
        SegmendError: pandas is not installed.
    """
    try:
        pandas = import_module("pandas")
    except ImportError as error:
        raise SegmendError("a DataFrame needs pandas: pip install 'segmend[notebook]'") from error
    return pandas.DataFrame(rows(diagnosis), columns=header(diagnosis))


def repr_html(diagnosis: Diagnosis) -> str:
    """What a notebook shows of a diagnosis: verdict, score and the fixes that gain most.

    A few lines of HTML without scripts or addresses; all texts are escaped.
    """
    setting, score = diagnosis.setting, diagnosis.score
    best = sorted(diagnosis.fixes, key=lambda fix: fix.gain - (fix.chance or 0.0), reverse=True)
    longest = max([fix.gain for fix in best[:SHOWN]] + [1e-9])
    bar = Markup('<div style="background:#0072b2;height:.7em;width:{:.0f}px"></div>')
    line = Markup(
        '<tr><td style="text-align:left">{}</td><td style="text-align:right">{}</td>'
        '<td style="text-align:right">{}</td><td style="text-align:left">{}</td></tr>'
    )
    lines = [
        line.format(
            fix.title,
            points(fix.gain),
            interval(fix.low, fix.high),
            bar.format(max(0.0, 160 * fix.gain / longest)),
        )
        for fix in best[:SHOWN]
    ]
    text = Markup(
        "<div><p><strong>{}</strong></p><p>{} images, {} {} (95% interval {} to {})</p>"
        '<table><caption style="text-align:left">Points of {} that each fix would gain</caption>'
        '<thead><tr><th style="text-align:left">fix</th><th>gain</th><th>95% interval</th>'
        "<th></th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(
        diagnosis.verdict.headline,
        whole(setting.num_images),
        setting.measure,
        *(percent(value) for value in (score.pooled, score.low, score.high)),
        setting.measure,
        Markup("").join(lines),
    )
    return str(text)


def load(path: str | Path) -> Diagnosis:
    """Read back what `save` wrote as JSON; it has no cases, and null is NaN where a number is due.

    Raises:
        SegmendError: the file cannot be read, or is not such a file.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SegmendError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SegmendError(f"{path}: want a report.json of `segmend diagnose`; {error}") from error
    if isinstance(content, dict):
        content = {**content, "cases": None}
    try:
        diagnosis: Diagnosis = _revive(Diagnosis, content, "report")
    except (TypeError, ValueError) as error:
        raise SegmendError(f"{path}: want a report.json of `segmend diagnose`; {error}") from error
    return diagnosis


def _revive(hint: Any, value: Any, place: str) -> Any:
    """`value` from JSON as what the annotation `hint` asks for; TypeError names the place."""
    if is_dataclass(hint) and isinstance(hint, type):
        return _revive_dataclass(hint, value, place)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else _revive(inner[0], value, place)
    if hint is float and (value is None or isinstance(value, int | float)):
        return float("nan") if value is None else float(value)
    if origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        pairs = zip(kinds, value, strict=True)
        return tuple(_revive(kind, v, f"{place}[{i}]") for i, (kind, v) in enumerate(pairs))
    if origin is dict and isinstance(value, dict):
        return {key: _revive(inner[1], v, f"{place}.{key}") for key, v in value.items()}
    if origin is Literal and value in inner:
        return value
    if isinstance(hint, type) and origin is None and type(value) is hint:
        return value
    raise TypeError(f"{place}: want {getattr(hint, '__name__', hint)}, got {value!r:.60}")


def _revive_dataclass(hint: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{place}: want an object, got {value!r:.60}")
    names = [field.name for field in fields(hint)]
    missing = [name for name in names if name not in value]
    if missing:
        raise TypeError(f"{place}: {missing[0]!r} is missing")
    hints = get_type_hints(hint)
    return hint(**{n: _revive(hints[n], value[n], f"{place}.{n}") for n in names})
