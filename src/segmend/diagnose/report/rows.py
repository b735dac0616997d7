"""Pages of the table of images, sorted and filtered, for the report's server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segmend.data.matching import natural_key
from segmend.diagnose.report.ranking import main_fix
from segmend.diagnose.result import Diagnosis
from segmend.errors import SegmendError

SORTS = ("name", "score", "main", "main-gain", "fix-gain")
MOST = 500
"""Rows in one answer, at most."""


@dataclass(frozen=True)
class Query:
    """What is asked for; see `read_query`."""

    sort: str = "score"
    descending: bool = False
    start: int = 0
    count: int = 50
    name: str = ""
    kind: str = ""
    below: float | None = None
    fix: str = ""


def read_query(given: Mapping[str, str]) -> Query:
    """A query from texts.

    Raises:
        SegmendError: an unknown key, an unknown column, or a number that is none.
    """
    unknown = sorted(set(given) - set(Query.__dataclass_fields__))
    if unknown:
        raise SegmendError(f"{unknown[0]!r} is nothing to ask for")
    if given.get("sort", "score") not in SORTS:
        raise SegmendError(f"sort: want one of {', '.join(SORTS)}, got {given['sort']!r}")
    try:
        start, count = int(given.get("start", 0)), int(given.get("count", 50))
        below = float(given["below"]) if "below" in given else None
    except ValueError as error:
        raise SegmendError(f"start, count and below: want numbers; {error}") from error
    if start < 0 or not 1 <= count <= MOST:
        raise SegmendError(f"want start >= 0 and 1 <= count <= {MOST}, got {start} and {count}")
    return Query(
        sort=given.get("sort", "score"),
        descending=given.get("descending") == "true",
        start=start,
        count=count,
        name=given.get("name", ""),
        kind=given.get("kind", ""),
        below=below,
        fix=given.get("fix", ""),
    )


class Rows:
    """The images of a diagnosis, ready to be paged through."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        self._images, self._fixes = diagnosis.images, diagnosis.fixes
        self._main = [main_fix(row, self._fixes) for row in self._images]
        self._lower = [row.name.casefold() for row in self._images]
        self._orders: dict[tuple[str, bool, str], list[int]] = {}

    def page(self, query: Query) -> dict[str, Any]:
        """Number of images that match, and one page of them as the table's script reads it."""
        name = query.name.casefold()
        kept = [i for i in self._order(query) if name in self._lower[i] and self._keeps(i, query)]
        shown = kept[query.start : query.start + query.count]
        return {"total": len(kept), "rows": [self._row(i, query.fix) for i in shown]}

    def _keeps(self, index: int, query: Query) -> bool:
        main, score = self._main[index], self._images[index].score
        if query.kind and (main is None or self._fixes[main].family != query.kind):
            return False
        return query.below is None or score < query.below  # NaN is below nothing

    def _order(self, query: Query) -> list[int]:
        fix = query.fix if query.sort == "fix-gain" else ""
        key = (query.sort, query.descending, fix)
        if key not in self._orders:
            if len(self._orders) > 16:
                self._orders.clear()
            self._orders[key] = self._sorted(query)
        return self._orders[key]

    def _sorted(self, query: Query) -> list[int]:
        """All images in order; those without a value last, whatever the direction."""
        known: list[tuple[Any, int]] = []
        without: list[int] = []
        for index in range(len(self._images)):
            value = self._value(index, query)
            if value is None or (isinstance(value, float) and math.isnan(value)):
                without.append(index)
            else:
                known.append((value, index))
        known.sort(key=lambda pair: pair[0], reverse=query.descending)
        return [index for _, index in known] + without

    def _value(self, index: int, query: Query) -> Any:
        row, main = self._images[index], self._main[index]
        if query.sort == "name":
            return natural_key(row.name)
        if query.sort == "score":
            return row.score
        if query.sort == "fix-gain":
            return row.gains.get(query.fix)
        if main is None:
            return None
        fix = self._fixes[main]
        return fix.title if query.sort == "main" else row.gains[fix.key]

    def _row(self, index: int, fix: str) -> dict[str, Any]:
        row, main = self._images[index], self._main[index]
        return {
            "name": row.name,
            "score": row.score,
            "main": main,
            "mainGain": None if main is None else row.gains[self._fixes[main].key],
            "fixGain": row.gains.get(fix),
            "page": f"image/{index}",
        }
