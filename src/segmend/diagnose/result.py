"""What a diagnosis found, as plain numbers: the report, the table and the JSON read only this."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from segmend.diagnose.case import CaseSet

Family = Literal[
    "threshold", "patch", "offset", "contour", "islands", "spill", "missed", "holes", "candidates",
    "confusion",
]  # fmt: skip
"""Kinds of error: one threshold, place, class offsets, outline, false objects, touching
over-segmentation, missed objects, holes, classes that the image lacks, pairs of classes."""

Addon = Literal["refine", "context", "rectify"]


@dataclass(frozen=True)
class Setting:
    """What was looked at. `measure` names the score: "IoU" (binary) or "mIoU"."""

    num_images: int
    classes: tuple[str, ...]
    dimensions: int
    has_probabilities: bool
    threshold: float | None
    measure: str
    source: str = ""


@dataclass(frozen=True)
class Score:
    """The base as it is: pooled over the set with its 95% interval, and per image, in [0, 1]."""

    pooled: float
    low: float
    high: float
    per_image: float


@dataclass(frozen=True)
class Fix:
    """What the score would gain if just this error were mended and everything else left.

    Attributes:
        key: stable name, such as "patch-64" or "boundary-2".
        title: for people.
        family: the kind of error. addon: the method of segmend that aims at it, if any.
        gain, low, high: pooled score mended minus as it is, in [0, 1] (never below 0 where the
            oracle is exact), with the 95% bootstrap interval over images.
        per_image_gain: the same on the average image.
        chance: the gain that this oracle would find if the error were unsystematic noise of the
            same size (what choosing freely wins by itself); None where that is 0 by nature.
        explanation: one sentence: what was mended, and how.
        value: what was chosen for all images: the threshold of "threshold-global", the logit to
            add to each class of "offset-class"; empty for all other fixes.
        affected: of "candidates" the share of all pixels that it changes; None for other fixes.
    """

    key: str
    title: str
    family: Family
    addon: Addon | None
    gain: float
    low: float
    high: float
    per_image_gain: float
    chance: float | None = None
    explanation: str = ""
    value: tuple[float, ...] = ()
    affected: float | None = None


@dataclass(frozen=True)
class SpatialBias:
    """Signed error by place, on a grid over the frame (rows x columns, frames scaled to it).

    Attributes:
        error: mean of prediction - truth per cell (share of the cell's pixels, in [-1, 1]).
        offset: logit to add in each cell for the best pooled IoU; empty without probabilities.
        p_value: of the permutation test that the bias is more than chance.
        spread: standard deviation of `error` over cells, and `chance_spread` its mean under the
            permutations.
    """

    error: tuple[tuple[float, ...], ...]
    offset: tuple[tuple[float, ...], ...]
    p_value: float
    spread: float
    chance_spread: float


@dataclass(frozen=True)
class ReliabilityCurve:
    """Of one class, near or far from boundaries: bins with mean confidence, frequency, count."""

    label: str
    near_boundary: bool | None
    confidence: tuple[float, ...]
    frequency: tuple[float, ...]
    count: tuple[int, ...]
    error: float
    """Expected calibration error."""


@dataclass(frozen=True)
class SizeBin:
    """Objects of the truth between two areas in pixels: how many, how well found."""

    smallest: int
    largest: int
    objects: int
    recall: float
    """Mean share of the object's pixels that were found."""
    detected: float
    """Share of the objects of which at least half was found."""


@dataclass(frozen=True)
class BackgroundCluster:
    """One cluster of background appearance: its share, and the share of its pixels called false."""

    name: str
    colour: tuple[float, float, float] | None
    share: float
    false_rate: float
    share_of_false: float


@dataclass(frozen=True)
class ImageRow:
    """One image: its score (NaN: nothing to find, nothing found) and each fix's gain on it."""

    index: int
    name: str
    score: float
    gains: dict[str, float]


@dataclass(frozen=True)
class Recommendation:
    """One add-on: what it could reach, what it is likely to bring, and the command to run.

    `low`, `expected`, `high`: the reachable gain times the share that our benchmarks recovered, or
    what a trial on the cases gained. `measured`: there was such a benchmark or trial; without one
    `low` is 0, `high` is `reachable`, and `expected` stands for not knowing.
    """

    addon: Addon
    title: str
    reachable: float
    low: float
    expected: float
    high: float
    command: str
    why: str
    measured: bool = True


@dataclass(frozen=True)
class Verdict:
    """The headline. `dominant`: the key of the fix that stands out, None: nothing to mend.
    `advice`: what can be done about it, add-ons aside."""

    headline: str
    dominant: str | None
    recommendations: tuple[Recommendation, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The whole result; `cases` is kept for drawing and is no part of `to_dict`."""

    setting: Setting
    score: Score
    fixes: tuple[Fix, ...]
    images: tuple[ImageRow, ...]
    verdict: Verdict
    bias: SpatialBias | None = None
    calibration: tuple[ReliabilityCurve, ...] = ()
    sizes: tuple[SizeBin, ...] = ()
    clusters: tuple[BackgroundCluster, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    """Pixels by true class (row) and predicted class (column)."""
    cases: CaseSet | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts: what the JSON holds."""
        found = asdict(replace(self, cases=None))  # the cases are not to be copied
        del found["cases"]
        return found

    def to_dataframe(self) -> Any:
        """One row an image, for pandas; see `segmend.diagnose.save.to_dataframe`."""
        from segmend.diagnose.save import to_dataframe

        return to_dataframe(self)

    def save(self, path: str | Path, *, against: Diagnosis | None = None) -> Path:
        """Write report.html, .json or .csv; see `segmend.diagnose.save.save`."""
        from segmend.diagnose.save import save

        return save(self, path, against=against)

    def _repr_html_(self) -> str:
        from segmend.diagnose.save import repr_html

        return repr_html(self)
