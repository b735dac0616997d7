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
    """

    name: str
    reachable: float
    gained: float
    tried: float | None = None


@dataclass(frozen=True)
class Recovered:
    """Share of a promised gain: typical, with the limits of a 95% range for one more pair."""

    low: float
    expected: float
    high: float
    source: str


REFINE: tuple[Pair, ...] = ()
"""Measured by benchmarks/predicted_gain.py, which says when these lines are out of date."""

PAIRS: dict[Addon, tuple[Pair, ...]] = {"refine": REFINE, "context": (), "rectify": ()}

UNKNOWN = Recovered(0.0, 0.25, 1.0, "no benchmark yet")
"""For an add-on that was not measured: anything is possible; a quarter stands for not knowing."""
FEWEST = 3
"""Pairs below which a share is not known."""


def share_of_oracle(addon: Addon, pairs: Sequence[Pair] | None = None) -> Recovered:
    """The share of its oracles' gain that an add-on recovers: mean over pairs, and its spread.

    Args:
        addon: one of ours. pairs: instead of what is known of it, for leaving one out.
    """
    known = PAIRS[addon] if pairs is None else pairs
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
    worthless; the limits are those of leaving out any one pair.
    """
    known = PAIRS[addon] if pairs is None else pairs
    usable = [(pair.gained, max(0.0, pair.tried)) for pair in known if pair.tried is not None]
    if len(usable) < FEWEST or sum(tried for _, tried in usable) <= 0:
        return UNKNOWN
    ratios = [_ratio(usable[:i] + usable[i + 1 :]) for i in range(len(usable))]
    expected = _ratio(usable)
    source = f"{len(usable)} pairs of model and data set"
    return Recovered(min(*ratios, expected), expected, max(*ratios, expected), source)


def _ratio(rows: Sequence[tuple[float, float]]) -> float:
    promised = math.fsum(tried for _, tried in rows)
    gained = math.fsum(gain for gain, _ in rows)
    return min(1.0, max(0.0, gained / promised)) if promised > 0 else 1.0
