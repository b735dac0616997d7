"""One error moves many oracles: which of them is the error, and which only happen to mend it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segmend.diagnose.result import Diagnosis, Fix

CERTAIN = 0.002
"""Gain that has to be left, in score, at the lower end of the interval: .2 points."""
SMALLEST = 0.01
"""Own gain below which nothing is named: one point."""
SHARE = 0.1
"""Share of all that there is to gain below which nothing is named."""
WIDTH = 0.85
"""An outline band is as wide as it must be for this share of the widest one's gain."""
P_VALUE = 0.05
ONE_SIDED = 0.25
"""Share of an outline band's gain that has to lie to one side."""
IN_IMAGES = 3
"""Images that must show an error which chance does not make."""


@dataclass(frozen=True)
class Cause:
    """One error, and what of the loss is its own.

    Attributes:
        fix: the one that says most about it; `parts` are all fixes that were added up for it.
        own, low, high: gain beyond chance and beyond what simpler errors explain, with the limits
            of its 95% interval, in score.
        certain: more than chance, and large enough to be worth a word.
    """

    fix: Fix
    parts: tuple[Fix, ...]
    own: float
    low: float
    high: float
    certain: bool


def attribute(diagnosis: Diagnosis) -> list[Cause]:
    """Share the loss (1 - score) out among the kinds of error, the largest own gain first.

    The rule, in short: *the simplest explanation is served first.*

    1. **Order.** Fixes are asked from the most restrictive to the freest: one threshold; one
       offset a class; one offset a place, the same in all images; then those that set right what
       has a definite shape: classes that the image lacks, missed objects, false objects with
       over-segmentation, holes; the outline, whose band touches all of these; and last those that
       choose anew for every image, patch or pair of classes.
    2. **Chance.** Of each gain counts what is beyond `Fix.chance`.
    3. **Nested fixes.** Of a threshold by place, image or patch counts only what is beyond the
       single threshold and beyond the next coarser choice: these contain each other, so that the
       difference is exact.
    4. **Budget.** All errors together cost no more than the loss. What the simpler fixes have
       claimed is gone, and a freer fix can claim at most the rest: two fixes whose gains together
       exceed the loss must, by inclusion and exclusion, mend the same pixels at least for the
       excess, and the simpler one keeps them. What chance costs at outlines, where classes touch,
       is no confusion of these classes either.
    5. **Evidence.** A cause is certain if it is a point or more and a tenth or more of the loss,
       and if it is not chance. Where a fix chooses, that is so if the lower limit of its interval,
       moved by all that was taken off, is above zero; for a bias by place the permutation test has
       to agree, and an outline has to err to one side by a quarter of its gain. What has a shape
       of its own (`Fix.chance` is None) is there for certain once three images show it, however
       wide the interval of what it costs.

    Budget and nesting are what a user means by "the" error: eroded outlines are also mended by a
    free threshold in every patch, but an outline that is too tight explains them with less.
    """
    loss = max(0.0, 1.0 - diagnosis.score.pooled)
    left, nested, noise, causes = loss, 0.0, 0.0, []
    for parts in _in_order(diagnosis.fixes):
        gain = sum(fix.gain for fix in parts)
        free = sum(fix.chance or 0.0 for fix in parts if (fix.chance or 0.0) > 0)
        beyond = gain - free
        own = beyond
        if _is_threshold(parts[0]):
            own = beyond - nested
            nested = max(nested, beyond)
        if parts[0].family == "contour":
            noise = free
        own = min(own, left - noise if parts[0].family == "confusion" else left)
        if own <= 0:
            continue
        left -= own
        below = math.hypot(*(fix.gain - fix.low for fix in parts))
        above = math.hypot(*(fix.high - fix.gain for fix in parts))
        lead = max(parts, key=lambda fix: fix.gain)
        cause = Cause(
            lead, parts, own, own - below, own + above, own >= max(SMALLEST, SHARE * loss)
        )
        causes.append(replace(cause, certain=cause.certain and _beyond_chance(diagnosis, cause)))
    return sorted(causes, key=lambda cause: -cause.own)


def _in_order(fixes: Sequence[Fix]) -> list[tuple[Fix, ...]]:
    """Groups of fixes that are one error each, from the most restrictive to the freest."""
    by_key = {fix.key: fix for fix in fixes}

    def named(*keys: str) -> list[tuple[Fix, ...]]:
        return [(by_key[key],) for key in keys if key in by_key]

    order = named("threshold-global", "offset-class", "bias-grid", "candidates", "missed")
    leak = tuple(by_key[key] for key in ("islands", "spill") if key in by_key)
    order += [leak] if leak else []
    order += named("holes")
    order += _outline([fix for fix in fixes if fix.family == "contour"])
    pairs = [fix for fix in fixes if fix.family == "confusion" and fix.key != "confusion"]
    order += [(fix,) for fix in sorted(pairs, key=lambda fix: -fix.gain)[:1]]
    order += named("threshold-image")
    patches = [fix for fix in fixes if fix.key.startswith("patch-")]
    order += [(fix,) for fix in sorted(patches, key=_number, reverse=True)]
    return order


def _outline(bands: list[Fix]) -> list[tuple[Fix, ...]]:
    """The narrowest band that mends nearly what the widest does."""
    if not bands:
        return []
    widest = max(_beyond(fix) for fix in bands)
    for fix in sorted(bands, key=_number):
        if _beyond(fix) >= WIDTH * widest:
            return [(fix,)]
    return []


def _beyond(fix: Fix) -> float:
    return fix.gain - max(0.0, fix.chance or 0.0)


def _is_threshold(fix: Fix) -> bool:
    return fix.family in ("threshold", "patch")


def _beyond_chance(diagnosis: Diagnosis, cause: Cause) -> bool:
    fix, bias = cause.fix, diagnosis.bias
    if fix.chance is None and fix.family not in ("threshold", "patch", "offset"):
        shown = (
            any(row.gains.get(f.key, 0.0) > 0 for f in cause.parts) for row in diagnosis.images
        )
        return sum(shown) >= IN_IMAGES
    if fix.key == "bias-grid" and bias is not None and bias.p_value > P_VALUE:
        return False
    if fix.family == "contour" and _beyond(fix) < ONE_SIDED * fix.gain:
        return False
    return cause.low > CERTAIN


def _number(fix: Fix) -> int:
    return int(fix.key.rsplit("-", 1)[-1])
