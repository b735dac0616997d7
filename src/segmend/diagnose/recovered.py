"""What share of an oracle's gain our own benchmarks really got back, add-on by add-on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segmend.diagnose.result import Addon


@dataclass(frozen=True)
class Pair:
    """One model on one data set: what was there to gain, and what was gained.

    Attributes:
        name: data set and base model.
        reachable: gain beyond chance of the add-on's best oracle on the fitting split, as
            `verdict.reachable_gain` says, in score.
        gained: pooled gain on the test split, mean over fits, in score.
        tried: gain of the dry run on the fitting split, where there is one.
    """

    name: str
    reachable: float
    gained: float
    tried: float | None = None


@dataclass(frozen=True)
class Recovered:
    """Share of the reachable gain: typical, with the limits of a 90% range for a new pair."""

    low: float
    expected: float
    high: float
    source: str


REFINE: tuple[Pair, ...] = ()
"""Measured by benchmarks/predicted_gain.py, which says when these lines are out of date."""

PAIRS: dict[Addon, tuple[Pair, ...]] = {"refine": REFINE, "context": (), "rectify": ()}

UNKNOWN = Recovered(0.0, 0.25, 1.0, "no benchmark yet")
"""For an add-on that was not measured: anything is possible; a quarter stands for not knowing."""


def recovered_share(addon: Addon, pairs: Sequence[Pair] | None = None) -> Recovered:
    """The share that an add-on recovers of its oracle's gain.

    Args:
        addon: one of ours. pairs: instead of what is known of it, for leaving one out.
    """
    known = PAIRS[addon] if pairs is None else tuple(pairs)
    shares = [pair.gained / pair.reachable for pair in known if pair.reachable > 0]
    if len(shares) < 3:
        return UNKNOWN
    mean = math.fsum(shares) / len(shares)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in shares) / (len(shares) - 1))
    # Prediction of one more share; Student's t at 90% is near 2 for the few pairs there are.
    margin = 2.0 * spread * math.sqrt(1 + 1 / len(shares))
    expected = max(0.0, mean)
    return Recovered(
        low=max(0.0, mean - margin),
        expected=expected,
        high=min(1.0, max(expected, mean + margin)),
        source=f"{len(shares)} pairs of model and data set",
    )
