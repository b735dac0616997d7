"""What the scripts of the report read: plain numbers, as few characters as will do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from segmend.diagnose.report.ranking import families_of, main_fix
from segmend.diagnose.report.words import FAMILIES
from segmend.diagnose.result import Diagnosis

STEP = 10_000
"""Scores and gains stand as whole numbers of 1 / STEP."""
BINS = 20
MAX_ROWS = 20_000
"""More rows than this stay out of the file; `segmend report serve` pages through all of them."""

# What could end a <script> element, open a comment in it, or end a line in old engines.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def script_json(content: object) -> str:
    """JSON that can stand inside a `<script>` element whatever the texts in it hold."""
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def plain(content: Any) -> Any:
    """The same with None for what JSON has no number for, and lists for tuples."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    return content


def charts(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything that is drawn as a chart."""
    order = {family: place for place, family in enumerate(families_of(diagnosis))}
    fixes = sorted(diagnosis.fixes, key=lambda fix: (order[fix.family], -fix.gain))
    return {
        "measure": diagnosis.setting.measure,
        "classes": diagnosis.setting.classes,
        "fixes": [_without(asdict(fix), "explanation", "per_image_gain") for fix in fixes],
        "dominant": diagnosis.verdict.dominant,
        "scores": histogram(row.score for row in diagnosis.images),
        "bias": None if diagnosis.bias is None else asdict(diagnosis.bias),
        "calibration": [asdict(curve) for curve in diagnosis.calibration],
        "sizes": [asdict(size) for size in diagnosis.sizes],
        "clusters": [asdict(cluster) for cluster in diagnosis.clusters],
        "confusion": diagnosis.confusion,
    }


def histogram(scores: Iterable[float]) -> list[int]:
    """Number of images in each of `BINS` equal bins of [0, 1]."""
    counts = [0] * BINS
    for score in scores:
        if math.isfinite(score):
            counts[min(BINS - 1, max(0, int(score * BINS)))] += 1
    return counts


def table(diagnosis: Diagnosis, *, limit: int = MAX_ROWS) -> dict[str, Any]:
    """The table of images by columns; of more than `limit` images the worst by score."""
    images = diagnosis.images
    places = list(range(len(images)))
    if len(places) > limit:
        places.sort(key=lambda i: (not math.isfinite(images[i].score), images[i].score))
        places = sorted(places[:limit])
    rows = [images[place] for place in places]
    return {
        "total": len(images),
        "names": [row.name for row in rows],
        "score": [_steps(row.score) for row in rows],
        "main": [main_fix(row, diagnosis.fixes) for row in rows],
        "gains": {
            fix.key: [_steps(row.gains.get(fix.key, math.nan)) for row in rows]
            for fix in diagnosis.fixes
        },
        **columns(diagnosis),
    }


def columns(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the table's head and filters need."""
    return {
        "fixes": [
            {"key": fix.key, "title": fix.title, "family": fix.family} for fix in diagnosis.fixes
        ],
        "families": {family: FAMILIES[family] for family in families_of(diagnosis)},
        "measure": diagnosis.setting.measure,
        "dominant": diagnosis.verdict.dominant,
    }


def _steps(value: float) -> int | None:
    return round(value * STEP) if math.isfinite(value) else None


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
