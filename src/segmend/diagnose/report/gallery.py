"""The gallery: the worst images with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmend.diagnose.case import Case, CaseSet
from segmend.diagnose.report.pictures import KINDS, Picture, draw, encode, flat
from segmend.diagnose.report.ranking import Pick, main_fix, worst_images
from segmend.diagnose.report.words import FAMILIES, percent, points
from segmend.diagnose.result import Diagnosis, Family, ImageRow
from segmend.errors import SegmendError

OTHER = "other"
"""Kind of the picture that lies under the slider."""


@dataclass(frozen=True)
class Panel:
    """One picture of an entry. `source`: a data URI, or an address of the report's server."""

    kind: str
    source: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Entry:
    """One image of the gallery, ready to be shown."""

    position: int
    name: str
    score: str
    note: str
    overall: bool
    kinds: dict[Family, float]
    panels: tuple[Panel, ...]
    other: Panel | None
    """The errors of the predictions that the slider compares with."""


Locate = Callable[[int, str, Picture], str]
"""From position, kind of picture and the picture to what an `img` element reads."""


def gallery(
    diagnosis: Diagnosis, count: int, *, other: CaseSet | None = None, locate: Locate | None = None
) -> list[Entry]:
    """Entries of the worst images; empty where the diagnosis keeps no cases.

    Args:
        count: at most so many images.
        other: the same images with other predictions, for a slider between the two.
        locate: where pictures are read from; they stand in the page by default.
    Raises:
        SegmendError: another prediction has another size than the base's.
    """
    if diagnosis.cases is None:
        return []
    places = {} if other is None else {n: i for i, n in enumerate(case_names(other))}
    find = locate or (lambda position, kind, picture: picture.uri())
    entries = []
    for pick in worst_images(diagnosis, count):
        row = diagnosis.images[pick.position]
        case, at = flat(diagnosis.cases[row.index])
        rival = None
        if other is not None and row.name in places:
            rival = _same_slice(other[places[row.name]], case, at)
        entries.append(_entry(diagnosis, pick, case, at, rival, find))
    return entries


def case_names(cases: CaseSet) -> list[str]:
    """Names of all cases; no file is read where the set knows its names."""
    if hasattr(cases, "matches"):
        return [match.name for match in cases.matches]
    known: Sequence[str] | None = getattr(cases, "names", None)
    return [case.name for case in cases] if known is None else list(known)


def _same_slice(other: Case, case: Case, at: int | None) -> Case:
    labels = other.prediction if at is None else other.prediction[..., at]
    if labels.shape != case.prediction.shape:
        raise SegmendError(
            f"{case.name}: the mask to compare with has size {tuple(labels.shape)}, the base's "
            f"{tuple(case.prediction.shape)}; want the same image"
        )
    return Case(case.name, labels, case.target, case.valid, None, case.image)


def _entry(
    diagnosis: Diagnosis, pick: Pick, case: Case, at: int | None, other: Case | None, find: Locate
) -> Entry:
    row, classes = diagnosis.images[pick.position], len(diagnosis.setting.classes)
    panels = tuple(_panel(case, kind, classes, pick.position, find) for kind in KINDS)
    rival = None
    if other is not None:
        rival = _panel(other, "errors", classes, pick.position, find, name=OTHER)
    return Entry(
        position=pick.position,
        name=row.name,
        score=f"{diagnosis.setting.measure} {percent(row.score)}",
        note=_note(diagnosis, row, at),
        overall=pick.overall,
        kinds=pick.kinds,
        panels=panels,
        other=rival,
    )


def _panel(
    case: Case, kind: str, classes: int, position: int, find: Locate, *, name: str | None = None
) -> Panel:
    picture = encode(draw(case, kind, classes))
    return Panel(
        kind=name or kind,
        source=find(position, name or kind, picture),
        width=picture.width,
        height=picture.height,
        alt=_alt(case, kind, other=name == OTHER),
    )


def _alt(case: Case, kind: str, *, other: bool) -> str:
    """What the picture says, for those who do not see it."""
    total = max(1, int(case.valid.sum()))
    true = int(((case.target > 0) & case.valid).sum()) / total
    found = int(((case.prediction > 0) & case.valid).sum()) / total
    wrong = (case.prediction != case.target) & case.valid
    if kind == "image":
        return f"{case.name}: the image" if case.image is not None else f"{case.name}: the input"
    if kind == "truth":
        return f"{case.name}: truth, {true:.1%} of it foreground"
    if kind == "prediction":
        return f"{case.name}: prediction, {found:.1%} of it foreground"
    extra = int((wrong & (case.target == 0)).sum()) / total
    missed = int((wrong & (case.prediction == 0)).sum()) / total
    which = "errors to compare with" if other else "errors"
    return f"{case.name}: {which}, {extra:.1%} false positive, {missed:.1%} false negative"


def _note(diagnosis: Diagnosis, row: ImageRow, at: int | None) -> str:
    place = main_fix(row, diagnosis.fixes)
    words = [] if at is None else [f"slice {at}"]
    if place is not None:
        fix = diagnosis.fixes[place]
        words.append(f"{FAMILIES[fix.family]}: {points(row.gains[fix.key])} by “{fix.title}”")
    return " · ".join(words)
