"""Rectification, its head and its gate against plain training and masking by predicted tags.

Two steps, resumable run by run; figures come from the counts that the first step has kept:

    python benchmarks/rectify_gain.py fit   --data DIR/msrc-objects --seeds 0 1 2 3 4
    python benchmarks/rectify_gain.py table --data DIR/msrc-objects --out benchmarks/results

`DIR` is in the VOC layout with train, val and test. A tag classifier learns from the tags of
`train` (or --classifier names one that `segmend tags train` wrote); its maps and the dense CRF make
the pseudo-masks. The segmenters are those of `rectify_bed.py`.

Test labels are read as they are ("plain"); masked by tags that the classifier predicts, before
("pred") and after ("pred, keep") foreground or background is decided, the latter also from the
probability on that is best on val ("pred, tuned"), or by the gate's tags, as `segmend predict`
does ("own, keep"); and with the true tags, which is a bound, not a method.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outcome import Cell, write_outcome
from records import FOLDER, SUFFIX, read_record, stem_of
from rectify_bed import Bench, Variant, add_training, mean_iou, rate_of
from segmend.cli.tag_recipes import resolve_stage
from segmend.data.tags import TagFolder
from segmend.metrics import Interval, boundary_f, iou, paired_bootstrap
from segmend.tags.jobs import draw_cams, make_masks, train_tags
from segmend.tags.options import CamOptions, MaskOptions, TagOptions

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

NOTES = (
    "mIoU in points on test images (train: on the true masks of training images, read plainly)."
    " OC: pixels whose class is not among the image's true tags; background: pixels labelled "
    "so; both percent. pred: masked by the classifier's tags, own: by the gate's; keep: the class "
    "alone is masked; tuned: so, by tags from the probability on that is best on val; true: the "
    "bound with true tags.",
    "Differences: to the named variant and reading with the same seeds, 95% paired bootstrap "
    "intervals over test images, averaged over seeds. masked: tuned, or as near to it as the "
    "segmenters without gate were read.",
)


def prepare(options: argparse.Namespace, runs: Path) -> tuple[Path, Path]:
    """(classifier, pseudo-masks of train), made where they are not there yet."""
    items = TagFolder(options.data, split="train", labels=options.labels)
    net = options.classifier or runs / "net"
    if options.classifier is None:
        sets = {"seed": 0, "threads": 1}
        recipe = resolve_stage("train", TagOptions, Path(options.recipe), options.sets, sets)
        train_tags(recipe, items, net, progress=False)
    draw_cams(CamOptions(), net, items, runs / "cams", progress=False)
    settings = MaskOptions(constant=options.constant)
    make_masks(settings, runs / "cams", items, runs / "masks", progress=False)
    return net, runs / "masks"


def variants(labels: str) -> dict[str, Variant]:
    return OBJECTS if labels == "SegmentationClass" else STUFF


def table(options: argparse.Namespace, name: str) -> None:
    """A row a variant and way of reading; paired differences over all seeds they share."""
    rows = rows_of(collect((FOLDER / name).glob(f"*{SUFFIX}"), options.labels))
    notes = [
        *NOTES,
        "The classifier is the recipe cam's at crops of 208 pixels, seed 0, its stem not frozen; "
        "the masks' background constant of .01 is the best on val. Which variants are worth a row "
        "was known from an earlier trial that had looked at this test split.",
    ]
    steps = "fit|table --data msrc-objects --set crop=208 freeze=[] --seeds 0 1"
    command = f"python benchmarks/rectify_gain.py {steps}"
    write_outcome(options.out / f"{name}.json", name=name, command=command, rows=rows, notes=notes)
    for row in rows:
        print(row)


def collect(files: Iterable[Path], labels: str) -> dict[str, dict[int, Any]]:
    """Variant -> seed -> what `Bench.fit` kept, in the order of `variants`."""
    kept = {stem_of(path): path for path in sorted(files)}
    found: dict[str, dict[int, Any]] = {}
    for variant in variants(labels):
        for stem, path in kept.items():
            name, _, seed = stem.rpartition("-")
            if name == variant.replace(" ", "_"):
                found.setdefault(variant, {})[int(seed)] = read_record(path)
    return found


def rows_of(found: dict[str, dict[int, Any]]) -> list[dict[str, Cell]]:
    """A row for each variant and way of reading its labels."""
    rows = []
    for variant, seeds in found.items():
        ways = ways_of(seeds)
        for way in ways:
            if way == "true" and "true, keep" in ways:
                continue  # one bound is enough
            read_so = {seed: run for seed, run in seeds.items() if way in run["test"]}
            rows.append(row_of(variant, way, read_so, found))
    return rows


def ways_of(seeds: dict[int, Any]) -> list[str]:
    """Readings that any of the runs has."""
    return list(dict.fromkeys(way for run in seeds.values() for way in run["test"]))


def row_of(
    variant: str, reading: str, seeds: dict[int, Any], found: dict[str, dict[int, Any]]
) -> dict[str, Cell]:
    mine = [run["test"][reading] for run in seeds.values()]
    row: dict[str, Cell] = {"variant": variant, "read": reading, "seeds": len(seeds)}
    row["mIoU"] = mean_of(mean_iou(m["region"].sum(0)) * 100 for m in mine)
    masked = best_masking(found)
    for title, other, how in (
        ("to flat", "flat", "plain"),
        ("to gate", "gate", "plain"),
        ("to flat, masked", "flat", masked),
        ("to hierarchical, masked", "hierarchical", masked),
    ):
        if title.startswith("to hierarchical") and "hierarchical" not in found:
            continue
        itself = (other, how) == (variant, reading)
        row[title] = "" if itself else change((found.get(other, {}), how), (seeds, reading))
    row["boundary F"] = mean_of(outline(m["boundary"], reading, seeds) for m in mine)
    row["OC %"] = mean_of(rate_of(m["oc"]) for m in mine)
    row["background %"] = mean_of(rate_of(m["behind"], 0, 1) for m in mine)
    if reading == "plain":
        seen = [run["train"]["plain"] for run in seeds.values()]
        row["train mIoU"] = mean_of(mean_iou(m["region"].sum(0)) * 100 for m in seen)
        row["train OC %"] = mean_of(rate_of(m["oc"]) for m in seen)
        row |= on_val(variant, seeds, found.get("gate", {}))
    else:
        row |= dict.fromkeys(("train mIoU", "train OC %", "val mIoU", "to gate, val"), "")
    row["seconds"] = round(sum(run["seconds"] for run in seeds.values()) / len(seeds))
    return row


def best_masking(found: dict[str, dict[int, Any]]) -> str:
    """The strongest masking by predicted tags that all plain segmenters were read with."""
    runs = found.get("flat", {}).values()
    ways = ("pred, tuned", "pred, keep")
    return next((way for way in ways if all(way in run["test"] for run in runs)), "pred")


def on_val(variant: str, seeds: dict[int, Any], gate: dict[int, Any]) -> dict[str, Cell]:
    """mIoU on val, where it was scored, and its difference to the gate alone."""
    mine = {seed: run["val"]["plain"]["region"] for seed, run in seeds.items() if "val" in run}
    row: dict[str, Cell] = {"val mIoU": "", "to gate, val": ""}
    if mine:
        row["val mIoU"] = mean_of(mean_iou(m.sum(0)) * 100 for m in mine.values())
    both = [seed for seed in sorted(mine.keys() & gate.keys()) if "val" in gate[seed]]
    if both and variant != "gate":
        base = torch.stack([gate[seed]["val"]["plain"]["region"] for seed in both])
        row["to gate, val"] = signed(difference(base, torch.stack([mine[s] for s in both])))
    return row


def outline(counts: Tensor, reading: str, seeds: dict[int, Any]) -> float:
    behind = next(iter(seeds.values()))["test"][reading]["behind"]
    first = 1 if int(behind[:, 0].sum()) else 0
    return float(100 * boundary_f(counts.sum(0))[first:].nanmean())


def mean_of(values: Any) -> str:
    numbers = list(values)
    return f"{sum(numbers) / len(numbers):.1f}"


def change(*pair: tuple[dict[int, Any], str]) -> str:
    """Paired difference of test mIoU: two variants' runs by seed, each with the way it is read.

    Over the seeds that both have been read so with; empty without any.
    """
    seeds = [{seed for seed, run in runs.items() if way in run["test"]} for runs, way in pair]
    shared = sorted(set.intersection(*seeds))
    if not shared:
        return ""
    base, other = (
        torch.stack([runs[seed]["test"][way]["region"] for seed in shared]) for runs, way in pair
    )
    return signed(difference(base, other))


def difference(base: Tensor, other: Tensor, *, outline: bool = False) -> Interval:
    """Paired difference of the mean over classes, from counts (seeds, images, classes, k)."""
    classes, k = base.shape[-2:]
    ratio, first = (boundary_f, 1) if outline else (iou, 0)

    def statistic(sums: Tensor) -> Tensor:
        values = ratio(sums.view(*sums.shape[:-1], classes, k))
        return values[..., first:].nanmean(-1)

    return paired_bootstrap(base.flatten(2), other.flatten(2), statistic=statistic)


def signed(interval: Interval) -> str:
    return f"{100 * interval.difference:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["fit", "table"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", default="SegmentationClass")
    parser.add_argument("--runs", type=Path, default=Path("runs/rectify_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--classifier", type=Path, help="what `segmend tags train` wrote")
    parser.add_argument("--recipe", default="cam", help="of the classifier, where none is given")
    parser.add_argument("--set", dest="sets", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--constant", type=float, default=0.01, help="background; best on val")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add_training(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = f"rectify_gain_{options.labels.removeprefix('Segmentation').lower()}"
    runs = options.runs / name
    if options.step == "table":
        table(options, name)
        return
    bench = Bench(options, FOLDER / name, lambda: prepare(options, runs))
    chosen = variants(options.labels)
    for seed in options.seeds:
        for variant in options.variants or chosen:
            bench.fit(variant, chosen[variant], seed)


if __name__ == "__main__":
    main()
