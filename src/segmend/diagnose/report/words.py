"""How the report names things and writes numbers."""

from __future__ import annotations

import math

from segmend.diagnose.result import Addon, Family, Recommendation

FAMILIES: dict[Family, str] = {
    "threshold": "Threshold",
    "patch": "Place in the frame",
    "offset": "Class offsets",
    "contour": "Outlines",
    "islands": "False objects",
    "spill": "Over-segmentation",
    "missed": "Missed objects",
    "holes": "Holes",
    "candidates": "Impossible classes",
    "confusion": "Confused classes",
}
ADDONS: dict[Addon, str] = {
    "refine": "segmend refine (PatchRefineNet)",
    "context": "context labels (CoLab)",
    "rectify": "out-of-candidate rectification (OCR)",
}
MINUS = "\N{MINUS SIGN}"
NO_VALUE = "\N{EN DASH}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.7421 as "74.2"; an en dash where there is no value."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    return f"{100 * value:.{digits}f}".replace("-", MINUS)


def points(value: float | None, digits: int = 1) -> str:
    """A difference of scores in points of 0.01, signed: 0.0213 as "+2.1"."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    rounded = round(100 * value, digits)
    if rounded == 0:
        return f"{0:.{digits}f}"  # neither "+0.0" nor "-0.0"
    return f"{rounded:+.{digits}f}".replace("-", MINUS)


def interval(low: float, high: float, digits: int = 1) -> str:
    """Limits of an interval of differences, "+1.2 to +3.3"."""
    return f"{points(low, digits)} to {points(high, digits)}"


def whole(value: float) -> str:
    """12345 as "12,345"."""
    return f"{round(value):,}".replace("-", MINUS)


def p_value(value: float) -> str:
    """0.0004 as "p < 0.001", 0.25 as "p = 0.25"."""
    if not math.isfinite(value):
        return f"p {NO_VALUE}"
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def css_colour(colour: tuple[float, float, float]) -> str:
    """RGB in [0, 1] as "#rrggbb"."""
    return "#" + "".join(f"{round(255 * min(max(part, 0.0), 1.0)):02x}" for part in colour)


def chances(advice: Recommendation, measure: str) -> tuple[str, str]:
    """What a recommended add-on may bring: the gist, and the rest of the sentence."""
    most = percent(advice.reachable)
    if not advice.measured:
        return "Not measured yet:", f"how much it brings of {most} points of {measure} at most."
    span = f"{points(advice.low)} to {points(advice.high)} points of {measure}"
    if points(advice.expected) == points(0):
        return "Not likely to gain much:", f"{span}, of {most} at most."
    return f"Likely {span}:", f"{points(advice.expected)} expected, of {most} at most."


def sentences(headline: str) -> tuple[str, str]:
    """The first sentence, and what follows it."""
    first, stop, rest = headline.partition(". ")
    return (f"{first}.", rest) if stop else (headline, "")
