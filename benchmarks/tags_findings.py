"""What led to the recipes from tags: single comparisons among what `tags_gain.py` has measured.

    python benchmarks/tags_findings.py --out benchmarks/results

From the records alone: the losses of HFPL one by one, both forms of the similarity loss, the plain
network's say, where the second network starts, and the forms of rectification. Which runs a row
compares stands in the dictionaries here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from outcome import write_outcome
from rectify_bed import rate_of
from rectify_tables import change, mean_of, on_val
from tags_overview import KINDS, SETS, Row, collected, gained, level, shared_seeds
from tags_tables import AGAIN, PUBLISHED, RECTIFIED, Runs, Segmenters

SAMPLING = {
    "alone, at the published weight of 0.2": ("cam", "cam++, ISL .2 alone"),
    "alone, from half of thirty epochs on": (
        "cam, 30 epochs", "cam++, ISL .2 alone from half, 30 epochs"
    ),
    "alone, at weight 1": ("cam", "cam++, ISL 1 alone"),
    "beside the similarity loss": ("cam++, binomial", "cam++, binomial and ISL .2"),
    "beside the similarity loss, in SEAM": ("seam++, binomial, ISL 0", "seam++, binomial"),
}  # fmt: skip
"""How importance sampling was used -> runs without and with it, on MSRC's objects."""

FORMS = {
    "plain": ("cam", "cam", "cam"),
    "binomial (published)": ("cam++, binomial",) * 3,
    "multinomial": ("cam++, multinomial", "cam++, multinomial", ""),
    "competitive": ("cam++", "cam++, without trust", "cam++, without trust"),
}
"""Form of the similarity loss -> its runs on each set, all without trust."""

SAY = {
    "`cam++`": ("cam++, from ImageNet, own maps", "cam++, from ImageNet"),
    "`seam++`": ("seam++, from ImageNet, own maps", "seam++, from ImageNet"),
    "`affinitynet++`": (
        "affinitynet++, from ImageNet, own maps", "affinitynet++, from ImageNet"
    ),
    "`irn++`, 256 steps": (
        "irn++, from ImageNet, own maps, 256 steps", "irn++, from ImageNet, 256 steps"
    ),
    "control: `cam`, by a second plain network": ("cam", "cam, twins"),
    "`cam++` over that control": ("cam, twins", "cam++, from ImageNet"),
}  # fmt: skip
"""Whose maps -> runs without and with another network's say, on MSRC's 21 classes; all networks
have started from ImageNet's weights."""

START = {
    "`cam++`": ("cam++, from ImageNet", "cam++"),
    "`seam++`": ("seam++, from ImageNet", "seam++"),
    "`affinitynet++`": ("affinitynet++, from ImageNet", "affinitynet++"),
    "`irn++`, 256 steps": ("irn++, from ImageNet, 256 steps", "irn++, 256 steps"),
    "control: `cam`, twice as long trained": ("cam", "cam, 20 epochs"),
    "`cam++` over that control": ("cam, 20 epochs", "cam++"),
}
"""Whose second network -> runs where it starts from ImageNet's weights and from the plain network,
on MSRC's 21 classes."""

WALK = {
    "`irn`, 256 → 32 steps": ("irn, 256 steps", "irn"),
    "`irn++`, 256 → 32 steps": ("irn++, 256 steps", "irn++"),
    "`irn` → `irn++`, both with 256": ("irn, 256 steps", "irn++, 256 steps"),
    "`irn` → `irn++`, both with 32": ("irn", "irn++"),
}
"""Length of IRN's walk -> runs to compare, on all sets."""

RANKINGS = {
    "flat": "none: plain training",
    "flat + adaptive all .1": "published form as inferred: `all`, adaptive split",
    "flat + all .1": "`all`, every candidate",
    "flat + all .1, margin 1": "with a margin of 1",
    "flat + all .1, from the first step": "from the first step",
    "flat + all 1": "weight 1",
    "flat + all 1, mean over all pixels": 'weight 1, the mean over all pixels (`average="all"`)',
    "flat + any .1": "`any`: the best candidate",
    "flat + any .1, background where it leads": (
        "`any`, the background a candidate only where it leads, adaptive"
    ),
    "flat + max .1": "`max`: its limit",
    "flat + hinge .1": "`hinge`: the sum over pairs",
    "flat + foreground .1": "`foreground`: background in neither group",
    "flat + tags only": "tags as an auxiliary loss, no ranking",
    "hierarchical": "hierarchical head, no ranking",
    "hierarchical + foreground .1": "hierarchical head, `foreground`",
    "hierarchical + foreground every 1": (
        "hierarchical head, `foreground` at every pixel, weight 1"
    ),
    "gate": "with the tag gate, no ranking",
    "gate + adaptive .1": (
        "with the tag gate, `foreground`, adaptive, dropped candidates in neither group"
    ),
    "gate + foreground every 1": (
        "with the tag gate, `foreground` at every pixel, weight 1: the recipes'"
    ),
}
"""Variant of `rectify_variants.py` -> as the page says it."""

MAPS = "maps, test"


def compared(
    runs: Runs, pairs: dict[str, tuple[str, str]], first: str, kinds: dict[str, str]
) -> Iterable[Row]:
    """A row a pair, a column a kind of mask: differences in mIoU; boundary F (seeds).

    Raises:
        KeyError: a run that a pair names has no record.
    """
    for words, (before, after) in pairs.items():
        row: Row = {first: words}
        for what, title in kinds.items():
            if found := gained(runs[before], runs[after], what):
                row[title] = found
        yield row


def latest(runs: Runs) -> Runs:
    """Each recipe's runs, those that were trained again in their seed's place."""
    return {name: seeds | runs.get(name + AGAIN, {}) for name, seeds in runs.items()}


def forms(runs: dict[str, Runs]) -> Iterable[Row]:
    """mIoU of maps of test images by each form of the similarity loss, seed 0."""
    for words, names in FORMS.items():
        row: Row = {"form": words}
        for (title, found), name in zip(runs.items(), names, strict=True):
            scores = found.get(name, {}).get(0, {}).get("scores", {})
            row[title] = f"{100 * scores[MAPS]['mean_iou']:.1f}" if MAPS in scores else None
        yield row


def rankings(kept: Segmenters) -> Iterable[Row]:
    """Each form of rectification against plain training, seed 0, read plainly."""
    found = {name: {0: runs[0]} for name, runs in kept["cam++, binomial"].items() if 0 in runs}
    for variant, words in RANKINGS.items():
        mine = found[variant]
        counts = mine[0]["test"]["plain"]
        itself = variant == "flat"
        yield {
            "loss": words,
            "mIoU": level(mine, "plain", [0]),
            "to plain": "" if itself else change((found["flat"], "plain"), (mine, "plain")),
            "out of candidates, %": f"{rate_of(counts['oc']):.1f}",
            "background, %": f"{rate_of(counts['behind'], 0, 1):.1f}",
        }


def at_every_pixel(kept: Segmenters) -> Iterable[Row]:
    """Rectification at every pixel against the gate alone, where both were trained."""
    for recipe, found in sorted(kept.items()):
        full = next((found[name] for name in RECTIFIED if name in found), {})
        seeds = shared_seeds(gate := found.get("gate", {}), full)
        if len(seeds) < 2:
            continue
        both = [{seed: of[seed] for seed in seeds} for of in (gate, full)]
        rates = (mean_of(rate_of(r["test"]["plain"]["oc"]) for r in of.values()) for of in both)
        yield {
            "masks of": recipe,
            "seeds": len(seeds),
            "test": change(*((of, "plain") for of in both)),
            "val": on_val(RECTIFIED[1], both[1], both[0])["to gate, val"],
            "out of candidates, %": " → ".join(rates),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    before = {ending: collected(ending, PUBLISHED) for ending in SETS}
    objects, kept = before["class"]
    now = {title: collected(ending)[0] for ending, title in SETS.items()}
    stuff = now[SETS["all"]]
    training = {"maps, train": "maps, training images"}
    found = {
        "sampling_trials": compared(objects, SAMPLING, "importance sampling", training | KINDS),
        "similarity_forms": forms({title: before[ending][0] for ending, title in SETS.items()}),
        "plain_say": compared(stuff, SAY, "maps of", KINDS),
        "second_start": compared(stuff, START, "maps of", KINDS),
        "irn_walk": [
            {"set": title, **row}
            for title, runs in now.items()
            for row in compared(latest(runs), WALK, "masks of", KINDS)
        ],
        "rectify_forms": rankings(kept),
        "every_pixel": at_every_pixel(kept),
    }
    for name, rows in found.items():
        command = "python benchmarks/tags_findings.py"
        write_outcome(options.out / f"{name}.json", name=name, command=command, rows=list(rows))


if __name__ == "__main__":
    main()
