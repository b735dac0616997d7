"""Rows of segmenters trained from pseudo-masks: levels, and paired differences between variants.

From what `Bench.fit` has kept. Test labels are read as they are ("plain"); masked by tags that the
classifier predicts, before ("pred") and after ("pred, keep") foreground or background is decided,
the latter also from the probability on that is best on val ("pred, tuned"), or by the gate's tags,
as `segmend predict` does ("own, keep"); and with the true tags, which is a bound, not a method.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outcome import Cell
from records import read_record, stem_of
from rectify_bed import mean_iou, rate_of
from rectify_variants import variants
from segmend.metrics import Interval, boundary_f, iou, paired_bootstrap

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
