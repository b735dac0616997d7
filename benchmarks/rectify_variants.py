"""The segmenters that `tags_gain.py segment` can train, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Variant:
    """What is trained; `weight` 0 is without rectification."""

    head: str = "hierarchical"
    gate: bool = False
    form: str = "foreground"
    weight: float = 0.0
    average: str = "oc"
    adaptive: bool = False
    dropped: str = "out"
    background_joins: str = "always"
    start: float = 0.2
    margin: float = 0.0
    strength: float = 1.0
    tag_weight: float = 0.3


FLAT = Variant(head="plain")
GATED = Variant(gate=True)
OBJECTS = {
    "flat": FLAT,
    "hierarchical": Variant(),
    "gate": GATED,
    "gate + foreground .1": replace(GATED, weight=0.1),
    "hierarchical + foreground .1": Variant(weight=0.1),
    "flat + all .1": replace(FLAT, form="all", weight=0.1),
    "flat + gate": replace(FLAT, gate=True),
    "flat + adaptive all .1": replace(FLAT, form="all", weight=0.1, adaptive=True),
    "flat + all 1": replace(FLAT, form="all", weight=1.0),
    "flat + all .1, margin 1": replace(FLAT, form="all", weight=0.1, margin=1.0),
    "flat + all .1, from the first step": replace(FLAT, form="all", weight=0.1, start=0.0),
    "flat + all 1, mean over all pixels": replace(FLAT, form="all", weight=1.0, average="all"),
    "flat + any .1": replace(FLAT, form="any", weight=0.1),
    "flat + foreground .1": replace(FLAT, weight=0.1),
    "flat + hinge .1": replace(FLAT, form="hinge", weight=0.1),
    "flat + max .1": replace(FLAT, form="max", weight=0.1),
    "flat + tags only": replace(FLAT, gate=True, strength=0.0),
    "gate + foreground .5": replace(GATED, weight=0.5),
    "gate + foreground every .3": replace(GATED, weight=0.3, average="every"),
    "gate + foreground every 1": replace(GATED, weight=1.0, average="every"),
    "gate + foreground every 3": replace(GATED, weight=3.0, average="every"),
    "hierarchical + foreground every 1": Variant(weight=1.0, average="every"),
    "gate + adaptive .1": replace(GATED, weight=0.1, adaptive=True, dropped="neutral"),
    "flat + any .1, background where it leads": replace(
        FLAT, form="any", weight=0.1, background_joins="leads", adaptive=True
    ),
}
STUFF = {
    "flat": FLAT,
    "gate": replace(FLAT, gate=True),
    "gate + any every 1": replace(FLAT, gate=True, weight=1.0, average="every"),
    "flat + any every 1": replace(FLAT, weight=1.0, average="every"),
    "flat + all .1": replace(FLAT, form="all", weight=0.1),
    "gate + any .1": replace(FLAT, gate=True, weight=0.1),
    "flat + adaptive all .1": replace(FLAT, form="all", weight=0.1, adaptive=True),
    "flat + tags only": replace(FLAT, gate=True, strength=0.0),
}
"""For data without a background class: "foreground" is "any" there."""


def variants(labels: str) -> dict[str, Variant]:
    """Those for a folder of labels: with a background class or without."""
    return OBJECTS if labels == "SegmentationClass" else STUFF
