"""What share of a promised gain our own benchmarks really got back, add-on by add-on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segmend.diagnose.result import Addon


@dataclass(frozen=True)
class Pair:
    """One model on one data set: what was promised on one split, and what was gained on another.

    Attributes:
        name: data set and base model.
        reachable: gain beyond chance of the add-on's best oracle on the split that it is fitted
            on, as of `verdict.reachable_gain`, in score.
        gained: pooled gain on the test split over the base at its tuned threshold, mean over fits.
        tried: gain of the dry run on the fitting split, where there is one.
        affected: share of the split's pixels that the oracle changes; rectification alone.
    """

    name: str
    reachable: float
    gained: float
    tried: float | None = None
    affected: float | None = None


@dataclass(frozen=True)
class Recovered:
    """Share of a promised gain: typical, with the limits of a 95% range for one more pair."""

    low: float
    expected: float
    high: float
    source: str


REFINE: tuple[Pair, ...] = (
    Pair("kvasir-fpn-0", reachable=0.1566, gained=0.0, tried=-0.0011),
    Pair("kvasir-unet-0", reachable=0.1536, gained=0.0, tried=0.0011),
    Pair("kvasir96-fpn-0", reachable=0.1725, gained=0.0, tried=-0.0003),
    Pair("nuclei-fpn-0", reachable=0.0809, gained=0.0084, tried=0.0175),
    Pair("nuclei-unet-0", reachable=0.1014, gained=0.0, tried=0.0021),
    Pair("roads-fpn-0", reachable=0.1487, gained=0.0, tried=-0.0002),
    Pair("roads-unet-0", reachable=0.1545, gained=-0.0012, tried=-0.0002),
    Pair("roads200-fpn-0", reachable=0.1226, gained=0.0, tried=0.0),
    Pair("roads200-unet-0", reachable=0.126, gained=0.0, tried=0.0006),
)
CONTEXT: tuple[Pair, ...] = (
    Pair("crowded2d", reachable=0.0718, gained=0.0126),
    Pair("kvasirx2", reachable=0.0415, gained=-0.0425),
    Pair("kvasirfpn", reachable=0.0434, gained=0.0008),
    Pair("nuclei", reachable=0.0274, gained=-0.0022),
)
"""The same, two contexts with the defaults of `segmend train --context`, mean over seeds."""

RECTIFY: tuple[Pair, ...] = (
    Pair(
        "all, masks of affinitynet++, from ImageNet, own maps",
        reachable=0.1808,
        gained=0.0449,
        affected=0.1144,
    ),
    Pair("all, masks of affinitynet++", reachable=0.1829, gained=0.0643, affected=0.1163),
    Pair("all, masks of cam++", reachable=0.1755, gained=0.0616, affected=0.1115),
    Pair("all, masks of seam++", reachable=0.1804, gained=0.0599, affected=0.1158),
    Pair("all, masks of cam++, from ImageNet", reachable=0.1674, gained=0.0529, affected=0.1073),
    Pair(
        "all, masks of cam++, from ImageNet, own maps",
        reachable=0.1719,
        gained=0.0625,
        affected=0.109,
    ),
    Pair(
        "all, masks of seam++, from ImageNet, own maps",
        reachable=0.1743,
        gained=0.0708,
        affected=0.1185,
    ),
    Pair(
        "all, masks of cam++, from ImageNet, own maps, min share .5",
        reachable=0.1719,
        gained=0.0639,
        affected=0.116,
    ),
    Pair(
        "all, masks of seam++, from ImageNet, own maps, min share .5",
        reachable=0.1916,
        gained=0.0769,
        affected=0.1245,
    ),
    Pair("class, masks of affinitynet++", reachable=0.1085, gained=0.104, affected=0.0521),
    Pair("class, masks of cam++", reachable=0.1066, gained=0.1031, affected=0.0553),
    Pair("class, masks of seam++", reachable=0.1054, gained=0.1081, affected=0.0537),
    Pair("class, masks of cam++, min share .5", reachable=0.1376, gained=0.0851, affected=0.0628),
    Pair("class, masks of seam", reachable=0.0552, gained=0.1379, affected=0.0411),
    Pair("scenes, masks of affinitynet++", reachable=0.0361, gained=-0.0031, affected=0.0147),
    Pair("scenes, masks of cam++", reachable=0.04, gained=-0.0062, affected=0.0133),
    Pair("scenes, masks of seam++", reachable=0.0325, gained=0.0018, affected=0.0112),
    Pair(
        "all, published masks of cam++, binomial", reachable=0.1668, gained=0.0714, affected=0.1353
    ),
    Pair(
        "all, published masks of cam++, without trust",
        reachable=0.1698,
        gained=0.056,
        affected=0.119,
    ),
    Pair("all, published masks of cam++", reachable=0.1704, gained=0.0552, affected=0.107),
    Pair("all, published masks of cam", reachable=0.1584, gained=0.0638, affected=0.1163),
    Pair(
        "all, published masks of seam++, without trust",
        reachable=0.1701,
        gained=0.0573,
        affected=0.1174,
    ),
    Pair("all, published masks of seam++", reachable=0.1606, gained=0.0764, affected=0.1136),
    Pair("all, published masks of seam", reachable=0.1921, gained=0.0623, affected=0.1511),
    Pair(
        "class, published masks of affinitynet++, binomial",
        reachable=0.1274,
        gained=0.0971,
        affected=0.0622,
    ),
    Pair(
        "class, published masks of affinitynet++", reachable=0.1323, gained=0.0976, affected=0.064
    ),
    Pair("class, published masks of affinitynet", reachable=0.0459, gained=0.0893, affected=0.0392),
    Pair(
        "class, published masks of cam++, binomial", reachable=0.1047, gained=0.1105, affected=0.059
    ),
    Pair("class, published masks of cam++", reachable=0.1139, gained=0.1053, affected=0.0597),
    Pair("class, published masks of cam", reachable=0.0532, gained=0.0763, affected=0.0664),
    Pair("class, published masks of irn++", reachable=0.115, gained=0.0948, affected=0.0611),
    Pair("class, published masks of irn", reachable=0.0692, gained=0.0639, affected=0.0782),
    Pair(
        "class, published masks of seam++, binomial",
        reachable=0.0936,
        gained=0.0951,
        affected=0.0575,
    ),
    Pair("class, published masks of seam++", reachable=0.0864, gained=0.1071, affected=0.0546),
    Pair("class, published masks of seam", reachable=0.0923, gained=0.085, affected=0.0873),
    Pair(
        "scenes, published masks of cam++, without trust",
        reachable=0.0409,
        gained=-0.0027,
        affected=0.0137,
    ),
    Pair("scenes, published masks of cam++", reachable=0.0416, gained=-0.0067, affected=0.0137),
    Pair("scenes, published masks of cam", reachable=0.0522, gained=0.0006, affected=0.0177),
    Pair("scenes10, masks of cam++, binomial", reachable=0.044, gained=-0.0326, affected=0.017),
    Pair("scenes16, masks of cam++", reachable=0.088, gained=-0.0308, affected=0.0255),
    Pair("scenes16, masks of cam", reachable=0.0767, gained=-0.0398, affected=0.0253),
    Pair("scenes60, masks of cam++, binomial", reachable=0.0536, gained=0.0177, affected=0.0204),
)
"""The same, the recipe `rectify`; "all": MSRC's 21 classes, "class": its objects;
"scenes": procedural ones of four classes after 30 epochs, "scenes10" after 10, "scenes60" after 60;
"scenes16": of 16; "published masks": refined as published, as in "scenes10" to "scenes60";
"binomial": the published similarity loss; "without trust": fsl_trust=false, as "class" is."""

PAIRS: dict[Addon, tuple[Pair, ...]] = {"refine": REFINE, "context": CONTEXT, "rectify": RECTIFY}

UNKNOWN = Recovered(0.0, 0.25, 1.0, "fewer than three benchmarks")
"""Of an add-on that was measured too seldom anything is possible; a quarter is for not knowing."""
FEW = 0.03
"""Share of the pixels below which an oracle changes few.

Where a plain segmenter has fewer pixels out of candidates, rectification has gained nothing on
average, however much the true tags would; the limit was set with pairs from 1.4 to 15% in view."""
FEWEST = 3
"""Pairs below which a share is not known."""
TRUST = 0.01
"""Gain in score that trials are taken to have promised, and kept, before anything was measured.

A trial is scored on images of the user's own that it was not tuned on, so it is worth something by
itself; without this, pairs whose trials promised nothing would say that no promise is ever kept."""


def share_of_oracle(
    addon: Addon, pairs: Sequence[Pair] | None = None, *, affected: float | None = None
) -> Recovered:
    """The share of its oracles' gain that an add-on recovers: mean over pairs, and its spread.

    Args:
        addon: one of ours. pairs: instead of what is known of it, for leaving one out.
        affected: share of the pixels that the oracle changes; of pairs where that is known those
            count that lie on the same side of `FEW`.
    """
    known = PAIRS[addon] if pairs is None else pairs
    if affected is not None:
        few = affected < FEW
        known = [p for p in known if p.affected is None or (p.affected < FEW) == few]
    shares = [pair.gained / pair.reachable for pair in known if pair.reachable > 0]
    if len(shares) < FEWEST:
        return UNKNOWN
    mean = math.fsum(shares) / len(shares)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in shares) / (len(shares) - 1))
    # A prediction interval; 2.5 is Student's t for the six pairs or so that there are.
    margin = 2.5 * spread * math.sqrt(1 + 1 / len(shares))
    expected = min(1.0, max(0.0, mean))
    return Recovered(
        low=min(expected, max(0.0, mean - margin)),
        expected=expected,
        high=min(1.0, max(expected, mean + margin)),
        source=f"{len(shares)} pairs of model and data set",
    )


def share_of_trial(addon: Addon, pairs: Sequence[Pair] | None = None) -> Recovered:
    """The share of a dry run's gain that the add-on itself gained: all gains over all promises.

    The ratio of sums, as a dry run that promises next to nothing makes a ratio of its own
    worthless, with `TRUST` on both sides; the limits are those of leaving out any one pair.
    """
    known = PAIRS[addon] if pairs is None else pairs
    usable = [(pair.gained, max(0.0, pair.tried)) for pair in known if pair.tried is not None]
    if len(usable) < FEWEST:
        return UNKNOWN
    ratios = [_ratio(usable[:i] + usable[i + 1 :]) for i in range(len(usable))]
    expected = _ratio(usable)
    source = f"{len(usable)} pairs of model and data set"
    return Recovered(min(*ratios, expected), expected, max(*ratios, expected), source)


def _ratio(rows: Sequence[tuple[float, float]]) -> float:
    promised = TRUST + math.fsum(tried for _, tried in rows)
    gained = TRUST + math.fsum(gain for gain, _ in rows)
    return min(1.0, max(0.0, gained / promised))
