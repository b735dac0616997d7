"""The tables of `tags_gain.py`, from the counts that its runs have kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from outcome import Cell, write_outcome
from records import SUFFIX, read_record, stem_of
from rectify_tables import NOTES, change, collect, difference, rows_of, signed
from segmend.metrics.contour import boundary_f
from segmend.metrics.region import iou

PAIRS = {
    "cam": "cam++",
    "seam": "seam++",
    "affinitynet": "affinitynet++",
    "irn": "irn++",
}
"""Plain method -> the same with the add-ons, both recipes of the command line."""

MAPS_OF = {"affinitynet": "cam", "affinitynet++": "cam++", "irn": "cam", "irn++": "cam++"}
"""Recipe -> the one whose maps it starts from; it has the same section `train`."""

PLAIN = {plus: plain for plain, plus in PAIRS.items()}

PUBLISHED = "_published"
"""Ends the name of a set's records whose masks were refined as published: maps by the dense CRF
`affinity-labels`, scores of a walk not at all."""

AGAIN = ", again"
"""Ends the name of a recipe whose networks of a seed were gone when more was to be learned from
them, gates or a walk of another length, so that all of the seed was done again, plain method and
`++`, with `--as again`. What `++` gains is told of the first training, what comes after of this
one."""

RECTIFIED = ("gate + any every 1", "gate + foreground every 1")
"""Variant of `rectify_variants.py` for data without and with a background class."""

KINDS = {"flat": "segmenter", "gate": "segmenter with gate"} | dict.fromkeys(
    RECTIFIED, "segmenter with gate and rectification"
)
"""Variant of a segmenter -> how it is named in the table."""

Runs = dict[str, dict[int, Any]]
"""Recipe, with its variant, -> seed -> what `fit` kept."""

Segmenters = dict[str, dict[str, dict[int, Any]]]
"""Recipe -> variant of the segmenter -> seed -> what `segment` kept."""


def tables(out: Path, options: argparse.Namespace, name: str) -> None:
    """Three tables: methods against the same with ++, variants of a ++, and segmenters."""
    command = f"python benchmarks/tags_gain.py {{step}} --data {options.data.name}"
    if options.labels != "SegmentationClass":
        command += f" --labels {options.labels}"
    if options.name:
        command += f" --name {options.name} --epochs {options.epochs}"
    if options.sets:
        command += f" --set {' '.join(options.sets)}"
    runs, kept = collect_runs(out, options.labels)
    rated = {recipe: rows_for(recipe, runs) for recipe in runs}
    whole = [row for recipe, found in rated.items() if "," not in recipe for row in found]
    parts = [row for recipe, found in rated.items() if "," in recipe for row in found]
    segmenters = [
        {"masks of": recipe, **row, "to flat on plain masks": whole_gain(recipe, row, kept)}
        for recipe, found in kept.items()
        for row in rows_of(found)
    ]
    said = (
        "maps: activation maps of the true tags at the constant that is best on val; masks: after "
        "walk and dense CRF, of the training images, background score the best on val; "
        "segmenter: trained on these masks (see benchmarks/rectify_bed.py). "
        "boundary F: over object classes (HFPL's protocol, absent classes left out).",
        "Differences with the same seeds, 95% paired bootstrap intervals over images, averaged "
        "over seeds. Seeds were trained on machines with bfloat16 in hardware, in it, and without, "
        "in float32; a difference is of one precision, but to variants in the ablation and, on "
        "masks refined as published, for seed 0 of cam++ on scenes.",
    )
    control = "ellipse: the control that learns nothing; truth: true masks for pseudo-masks."
    equal = (
        "Variants are named by `--set`: binomial, multinomial, competitive: train.fsl_form; "
        "with trust, without trust: train.fsl_trust; all trusted: so for images of one tag, too, "
        "which was tried before and is no option any more; "
        "FSL, ISL: train.fsl_weight, train.isl_weight, and where one stands alone without the "
        "other; from plain, from ImageNet: train.start_from_tagger=true, false; one network: no "
        "train.tagger, so its tag mAP is its own; own maps: cams.plain_share=0; twins: two plain "
        "networks, the other seed's with cams.plain_share=0.5; min share: masks.min_share; "
        "256 steps: masks.walk_steps; again: nothing, a seed's second training. "
        "To plain: to the plain method, as long trained; to the recipe: to it as "
        "it is, or to the variant that the last comma follows."
    )
    apart = (
        "Every seed has masks of its own, of the training images; segmenters as above. Seeds whose "
        "masks were gone were trained again, which the table of variants calls so."
    )
    for title, step, rows, notes in (
        (name, "fit|segment|table", whole, [*said, control]),
        (f"{name}_ablation", "fit --as NAME", parts, [*said, equal]),
        (name.replace("tags", "rectified"), "segment|table", segmenters, [*NOTES, apart]),
    ):
        if rows:
            path = options.out / f"{title}.json"
            done = command.format(step=step)
            write_outcome(path, name=title, command=done, rows=rows, notes=notes)


def plain_of(recipe: str) -> str:
    """The plain method of a ++ recipe or of a variant of it; "" of a plain one."""
    return PLAIN.get(recipe.partition(", ")[0], "")


def plain_segmenters(recipe: str, kept: Segmenters) -> dict[int, Any]:
    """Those on the masks of a ++ recipe's plain method, from the same training of each seed."""
    plain = plain_of(recipe)
    first, again = (kept.get(name, {}).get("flat", {}) for name in (plain, plain + AGAIN))
    return first if "," in recipe else first | again


def whole_gain(recipe: str, row: dict[str, Cell], kept: Segmenters) -> str:
    """What a ++ method's masks and a variant gain together over the plain method's, both."""
    before = plain_segmenters(recipe, kept)
    after = kept[recipe][str(row["variant"])]
    return change((before, "plain"), (after, str(row["read"])))


def rows_for(recipe: str, runs: Runs) -> list[dict[str, Cell]]:
    """A row a kind of mask: levels, and differences to the plain method.

    Of the same variant where there is one, or of its last part: "ISL .2 alone, 30 epochs" is
    compared with the plain method, 30 epochs. A variant of a variant, "binomial, ISL 0", is
    compared with that, too, instead of with the recipe.
    """
    base, _, variant = recipe.partition(", ")
    plain = plain_of(recipe)
    alike = (f"{plain}, {part}" for part in (variant, variant.rpartition(", ")[2]))
    against = next((each for each in alike if each in runs), plain)
    before = recipe.rpartition(", ")[0]
    changed = before if before in runs else base
    rows = []
    for what in dict.fromkeys(w for run in runs[recipe].values() for w in run["scores"]):
        rivals = {"to plain": against} | ({"to the recipe": changed} if variant else {})
        known = {title: having(what, runs.get(rival, {})) for title, rival in rivals.items()}
        rows.append(row_of(recipe, what, having(what, runs[recipe]), known))
    return rows


def collect_runs(out: Path, labels: str) -> tuple[Runs, Segmenters]:
    """What `fit` kept, with the figures of the segmenters among its scores, and those segmenters.

    Every record is read once. What a ++ method taught that was trained again (`AGAIN`) stands among
    the recipe's own segmenters, in that seed's place.
    """
    runs: Runs = {}
    for path in sorted(out.glob(f"*{SUFFIX}")):
        recipe, _, number = stem_of(path).rpartition("-")
        runs.setdefault(recipe, {})[int(number)] = read_record(path)
    segmenters = {each: collect(out.glob(f"{each}-[0-9]/*{SUFFIX}"), labels) for each in runs}
    for recipe, found in segmenters.items():
        for variant, kind in KINDS.items():
            for seed, run in found.get(variant, {}).items():
                scores = runs[recipe][seed]["scores"]
                scores[f"{kind}, test"] = segmenter_scores(run["test"]["plain"])
    for recipe in [name for name in segmenters if name.endswith(AGAIN) and plain_of(name)]:
        own = segmenters[recipe.removesuffix(AGAIN)]
        for variant, seeds in segmenters.pop(recipe).items():
            own.setdefault(variant, {}).update(seeds)
    return runs, segmenters


def having(what: str, seeds: dict[int, Any]) -> dict[int, Any]:
    """The runs that have been scored for it."""
    return {seed: run for seed, run in seeds.items() if what in run["scores"]}


def row_of(
    recipe: str, what: str, seeds: dict[int, Any], rivals: dict[str, dict[int, Any]]
) -> dict[str, Cell]:
    mine = [seeds[s]["scores"][what] for s in seeds]
    row: dict[str, Cell] = {"recipe": recipe, "of": what, "seeds": len(seeds)}
    for title, key, counts in (
        ("mIoU", "mean_iou", "region"),
        ("boundary F", "boundary_f", "boundary"),
    ):
        row[title] = f"{100 * sum(m[key] for m in mine) / len(mine):.1f}"
        for against, rival in rivals.items():
            both = sorted(seeds.keys() & rival.keys())
            stacks = [
                torch.stack([run[s]["scores"][what][counts] for s in both])
                for run in (rival, seeds)
                if both
            ]
            found = difference(*stacks, outline=counts == "boundary") if both else None
            row[f"{title}, {against}"] = "" if found is None else signed(found)
    precision = [m["tag_map"] for m in mine if m["tag_map"] is not None]
    row["tag mAP"] = f"{100 * sum(precision) / len(precision):.1f}" if precision else ""
    return row


def segmenter_scores(counts: dict[str, Any]) -> dict[str, Any]:
    """Figures of a segmenter from what was counted on test, as `fit` keeps those of maps."""
    region, boundary = counts["region"], counts["boundary"]
    first = int(bool(counts["behind"][:, 0].any()))
    return {
        "region": region,
        "boundary": boundary,
        "mean_iou": float(iou(region.sum(0)).nanmean()),
        "boundary_f": float(boundary_f(boundary.sum(0))[first:].nanmean()),
        "tag_map": None,
    }
