"""What `tags_gain.py` measured, all sets side by side: the tables of the pages of findings.

    python benchmarks/tags_overview.py --out benchmarks/results

From the records alone: `++` recipes against their plain methods, seed by seed, too, with seeds that
were trained twice, and with masks refined as published, where more than one seed was; the small
recipes' CRF against the published refinement, on the same maps; gate, rectification and masking
against plain segmenters, on masks of both; and what segmenters gain where masks leave open what is
doubtful (`tags_gain.py --as "min share .5"`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from outcome import Cell, write_outcome
from records import FOLDER
from rectify_bed import mean_iou, rate_of
from rectify_tables import change, difference, mean_of, signed
from tags_tables import (
    AGAIN,
    MAPS_OF,
    PAIRS,
    PUBLISHED,
    RECTIFIED,
    Runs,
    Segmenters,
    collect_runs,
    having,
    plain_segmenters,
)

SETS = {"class": "objects", "all": "21 classes", "scenes": "scenes"}
"""Ending of a set's records -> its name on the pages."""

LABELS = {"all": "SegmentationAll"}
"""Of the sets whose labels are not VOC's usual ones."""

SEGMENTER = "segmenter, test"
"""A segmenter's scores, as `tags_gain.py` names them."""

SEEDS = range(5)
"""As many as HFPL's paper has; a column each."""

KINDS = {
    "maps, test": "maps, test images",
    "masks, train": "masks, training images",
    SEGMENTER: "a segmenter trained on them, test images",
}
"""As `tags_gain.py` names what it scored -> as the pages do."""

DOUBT = ", min share .5"
"""Of a recipe's runs with `masks.min_share=0.5`, made of its own maps."""

MASKED, BY_GATE = "pred, tuned", "own, keep"
"""Readings of a segmenter: masked by a classifier's tags, as well as val knows; by its gate's."""

SEGMENTERS = {"flat": "plain", "gate": "gate"} | dict.fromkeys(RECTIFIED, "gate, rectification")
"""Variant of the segmenter -> as the pages name it."""

Row = dict[str, Cell]


def gains(runs: Runs, title: str, fewest: int) -> Iterable[Row]:
    """A row a method and kind of mask that both recipes of a pair have in `fewest` seeds."""
    for plain, plus in PAIRS.items():
        for what, words in KINDS.items():
            pair = [having(what, runs.get(recipe, {})) for recipe in (plain, plus)]
            shared = shared_seeds(*pair)
            if len(shared) < fewest:
                continue
            scores = [[of[seed]["scores"][what] for seed in shared] for of in pair]
            before, after = (mean_of(100 * s["mean_iou"] for s in of) for of in scores)
            yield {
                "set": title,
                "recipe": plain,
                "of": words,
                "seeds": len(shared),
                "plain": before,
                "`++`": after,
                "mIoU, difference": paired(*scores, "region"),
                "boundary F, difference": paired(*scores, "boundary"),
            }


def seeds_apart(runs: Runs, title: str) -> Iterable[Row]:
    """A row a method, a column a seed: what `++` gains in mIoU of that training's segmenter."""
    for plain, plus in PAIRS.items():
        pair = [having(SEGMENTER, runs.get(recipe, {})) for recipe in (plain, plus)]
        if not (shared := shared_seeds(*pair)):
            continue
        before, after = (
            {seed: 100 * run["scores"][SEGMENTER]["mean_iou"] for seed, run in of.items()}
            for of in pair
        )
        yield {"set": title, "recipe": plus} | {
            f"seed {seed}": f"{after[seed] - before[seed]:+.1f}" if seed in shared else None
            for seed in SEEDS
        }


def trained_again(runs: Runs, title: str) -> Iterable[Row]:
    """A row a seed that was trained twice, a column a kind of mask: what `++` gains in mIoU."""
    for plain, plus in PAIRS.items():
        first, second = (
            [runs.get(name + end, {}) for name in (plain, plus)] for end in ("", AGAIN)
        )
        for seed in shared_seeds(*first, *second):
            row: Row = {"set": title, "recipe": plus, "seed": seed}
            for what, words in KINDS.items():
                scores = [[of[seed]["scores"].get(what) for of in pair] for pair in (first, second)]
                if None in scores[0] + scores[1]:
                    continue
                once, twice = (100 * (b["mean_iou"] - a["mean_iou"]) for a, b in scores)
                row[words] = f"{once:+.1f}, {twice:+.1f}"
            yield row


def reach(now: Mapping[str, Runs], before: Mapping[str, Runs]) -> Iterable[Row]:
    """A row a recipe and kind of mask, a column a set: what the shorter CRF gained there.

    `now` and `before`: the runs of each set with either refinement.
    """
    for recipe in (name for pair in PAIRS.items() for name in pair):
        for what in list(KINDS)[1:]:
            row: Row = {"recipe": recipe, "of": KINDS[what]}
            for title, runs in now.items():
                published = of_same_maps(recipe, runs, before[title])
                if found := gained(published, own_maps(recipe, runs), what):
                    row[title] = found
            if len(row) > 2:
                yield row


def gained(before: dict[int, Any], after: dict[int, Any], what: str) -> str:
    """Differences in mIoU; boundary F (seeds) of runs that share seeds; "" of those that do not."""
    pair = [having(what, runs) for runs in (before, after)]
    shared = shared_seeds(*pair)
    if not shared:
        return ""
    scores = [[of[seed]["scores"][what] for seed in shared] for of in pair]
    found = "; ".join(paired(*scores, each) for each in ("region", "boundary"))
    return f"{found} ({len(shared)})"


def own_maps(recipe: str, runs: Runs) -> dict[int, Any]:
    """Runs of a recipe with the maps and the walk that all had with the published refinement.

    Maps of one network that has started from ImageNet's weights, IRN's walk of 256 steps; later
    runs that differ have their variant of it.
    """
    then = (", from ImageNet, own maps, 256 steps", ", from ImageNet, own maps", ", 256 steps", "")
    return next((runs[name] for ending in then if (name := f"{recipe}{ending}") in runs), {})


def of_same_maps(recipe: str, runs: Runs, before: Runs) -> dict[int, Any]:
    """Published runs of a recipe from the very maps of `runs`, not from a network trained again."""
    source = MAPS_OF.get(recipe, recipe)

    def maps(of: Runs, seed: int) -> Any:
        scores = own_maps(source, of).get(seed, {"scores": {}})["scores"]
        return scores.get("maps, test", {}).get("region", torch.empty(0))

    return {
        seed: run
        for seed, run in before.get(recipe, {}).items()
        if len(maps(runs, seed)) and torch.equal(maps(runs, seed), maps(before, seed))
    }


def rectified(kept: Segmenters, title: str) -> Iterable[Row]:
    """A row a recipe whose masks have taught a plain segmenter and one with gate and rectification.

    "masked": by a classifier's tags. "all": with gate and rectification, masked by the gate's tags.
    "rectification's own": to the gate alone, both read plainly.
    """
    for recipe, found in sorted(kept.items()):
        flat, gate = found.get("flat", {}), found.get("gate", {})
        full: dict[int, Any] = next((found[name] for name in RECTIFIED if name in found), {})
        shared = shared_seeds(flat, full)
        if not shared:
            continue
        both = (flat, "plain"), (full, BY_GATE)
        before = plain_segmenters(recipe, kept)
        yield {
            "set": title,
            "masks of": recipe,
            "seeds": len(shared),
            "plain": level(flat, "plain", shared),
            "masked": level(flat, MASKED, shared),
            "all": level(full, BY_GATE, shared),
            "all, to plain": change(*both),
            "all, to masked": change((flat, MASKED), both[1]),
            "gate, masked, to masked": change((flat, MASKED), (gate, MASKED)),
            "rectification's own": change((gate, "plain"), (full, "plain")),
            "out of candidates, %": " → ".join(
                mean_of(rate_of(runs[seed]["test"][way]["oc"]) for seed in shared)
                for runs, way in both
            ),
            "all with `++`, to plain without": change((before, "plain"), both[1]),
        }


def doubtful(kept: Segmenters, runs: Runs, title: str) -> Iterable[Row]:
    """A row a recipe and segmenter that learned from all labels, and from those beyond doubt.

    `runs`: what was kept of the masks. Segmenters are read plainly. "left open": share of the
    training masks' pixels that have no label then.
    """
    for recipe in (name.removesuffix(DOUBT) for name in kept if name.endswith(DOUBT)):
        whole, sure = (kept.get(f"{recipe}{doubt}", {}) for doubt in ("", DOUBT))
        for variant, words in SEGMENTERS.items():
            pair = whole.get(variant, {}), sure.get(variant, {})
            shared = shared_seeds(*pair)
            if not shared:
                continue
            masks = runs[f"{recipe}{DOUBT}"]
            val = ([of[seed]["val"]["plain"] for seed in shared] for of in pair)
            before, after = (level(of, "plain", shared) for of in pair)
            yield {
                "set": title,
                "masks of": recipe,
                "segmenter": words,
                "seeds": len(shared),
                "left open, %": mean_of(
                    100 * masks[seed]["scores"]["masks, train"]["ignored"] for seed in shared
                ),
                "all labels": before,
                "beyond doubt": after,
                "difference": change(*((of, "plain") for of in pair)),
                "difference on val": paired(*val, "region"),
            }


def level(runs: dict[int, Any], way: str, seeds: Sequence[int]) -> str:
    """Mean mIoU of the seeds, read in a way."""
    return mean_of(100 * mean_iou(runs[seed]["test"][way]["region"].sum(0)) for seed in seeds)


def paired(base: list[Any], other: list[Any], counts: str) -> str:
    """The difference of two recipes' scores, a list over seeds each, with its interval."""
    stacks = (torch.stack([score[counts] for score in of]) for of in (base, other))
    return signed(difference(*stacks, outline=counts == "boundary"))


def shared_seeds(*runs: Mapping[int, Any]) -> list[int]:
    """Seeds that all have."""
    return sorted(set.intersection(*(set(of) for of in runs)))


def collected(ending: str, suffix: str = "") -> tuple[Runs, Segmenters]:
    """What was kept of a set, by the ending of its name; `suffix`: "" or `PUBLISHED`."""
    labels = LABELS.get(ending, "SegmentationClass")
    return collect_runs(FOLDER / f"tags_gain_{ending}{suffix}", labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    found: dict[str, list[Row]] = {}
    runs: dict[str, dict[str, Runs]] = {}
    for suffix, fewest in (("", 1), (PUBLISHED, 2)):
        better = found[f"tags_overview{suffix}"] = []
        mended = found[f"rectified_overview{suffix}"] = []
        runs[suffix] = {}
        for ending, title in SETS.items():
            runs[suffix][title], kept = collected(ending, suffix)
            better += gains(runs[suffix][title], title, fewest)
            mended += rectified(kept, title)
            if not suffix:
                found.setdefault("tags_seeds", []).extend(seeds_apart(runs[suffix][title], title))
                twice = trained_again(runs[suffix][title], title)
                found.setdefault("trained_again", []).extend(twice)
                sure = doubtful(kept, runs[suffix][title], title)
                found.setdefault("doubtful_overview", []).extend(sure)
    found["crf_reach"] = list(reach(runs[""], runs[PUBLISHED]))
    for name, rows in found.items():
        command = "python benchmarks/tags_overview.py"
        write_outcome(options.out / f"{name}.json", name=name, command=command, rows=rows)


if __name__ == "__main__":
    main()
