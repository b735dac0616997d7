"""Pairs of model and data set of the gain tables: what the diagnosis promised, what was gained.

Promised on val, as `segmend diagnose` finds it there; gained on test, mean over fits or seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from context_gain import BEST, RECORDS
from context_sets import SETS, Item
from records import FOLDER, SUFFIX, read_record
from rectify_bed import mean_iou_of, rate_of
from rectify_tables import difference
from segmend.context.evaluation import GRID, margin
from segmend.context.inference import image_logits
from segmend.context.networks import load_context
from segmend.diagnose.decompose import measure
from segmend.diagnose.dry_run import DryRun, guided_dry_run
from segmend.diagnose.reading import TensorCases
from segmend.diagnose.recovered import Pair
from segmend.diagnose.result import Addon
from segmend.diagnose.verdict import reachable_gain
from tags_tables import AGAIN, PUBLISHED, RECTIFIED

GATED, OPEN = "bias field with guide, gated", "bias field with guide, always on"
TUNED = "base, threshold tuned"


@dataclass(frozen=True)
class Found:
    """What one pair's diagnosis said, and what the add-on gained (points are not used here).

    always_on, patches, trial: of refiners alone.
    """

    addon: Addon
    pair: Pair
    limits: tuple[float, float, float]
    fits: int
    always_on: float | None = None
    patches: float | None = None
    trial: DryRun | None = None


def refine_pairs(runs: Path) -> Iterator[Found]:
    for run in sorted(runs.glob("*-*-*")):
        tuned = run / "baselines" / "counts" / "base,_threshold_tuned.pt"
        counts = [load(path) for path in sorted(run.glob("fit-*/counts/*.pt"))]
        gated = [one for one in counts if one["method"] == GATED]
        if not (run / "maps.pt").exists() or not tuned.exists() or not gated:
            continue
        base = pooled(load(tuned)["regions"])
        always = [one for one in counts if one["method"] == OPEN]
        val = torch.load(run / "maps.pt", weights_only=True)["maps"]["val"]
        cases = TensorCases(
            [logits.float().sigmoid() for _, logits, _, _ in val],
            [labels.long() for _, _, labels, _ in val],
            images=[image.float() / 255 for *_, image in val],
            names=[name for name, *_ in val],
        )
        diagnosis = measure(cases)
        trial = guided_dry_run(cases, threshold=diagnosis.setting.threshold)
        limits = reachable_gain(diagnosis.fixes, "refine")
        yield Found(
            addon="refine",
            pair=Pair(
                name=run.name,
                reachable=limits[1],
                gained=mean(pooled(one["regions"]) - base for one in gated),
                tried=None if trial is None else trial.gain,
            ),
            limits=limits,
            always_on=mean(pooled(one["regions"]) - base for one in always),
            patches=max(f.gain for f in diagnosis.fixes if f.key.startswith("patch-")),
            fits=len(gated),
            trial=trial,
        )


def context_pairs(runs: Path, data: Path) -> Iterator[Found]:
    """Each flat set that was trained plainly and with the best context labels, mean over seeds.

    Of runs of several lengths the longest: a gain over what is still learning is none.
    """
    for dataset, spec in SETS.items():
        label = longest(dataset, runs)
        plain = {p.name.rpartition("-")[2]: p for p in sorted(runs.glob(f"{label}-plain-*"))}
        records = {
            seed: [RECORDS / f"{label}-{method}-{seed}{SUFFIX}" for method in ("plain", BEST)]
            for seed in plain
        }
        seeds = [seed for seed, paths in records.items() if all(p.exists() for p in paths)]
        items = spec.read(data)["val"] if seeds else []
        if not items or items[0]["image"].ndim != 3:
            continue
        limits, gains = [], []
        for seed in seeds:
            before, after = (read_record(path)["scores"]["sum"] for path in records[seed])
            gains.append(tuned_iou(after) - tuned_iou(before))
            cases = cases_of(plain[seed] / "net", items, before["threshold"])
            limits.append(reachable_gain(measure(cases).fixes, "context"))
        low, middle, high = (mean(values) for values in zip(*limits, strict=True))
        yield Found(
            addon="context",
            pair=Pair(label, reachable=middle, gained=mean(gains)),
            limits=(low, middle, high),
            fits=len(gains),
        )


def rectify_pairs() -> Iterator[Found]:
    """Segmenters on each recipe's pseudo-masks: plain; with gate, rectification and masking.

    Their labels masked by the true tags are the diagnosis's oracle, so that it needs no network.
    """
    for kind in sorted(FOLDER.glob("tags_gain_*")):
        for recipe, seeds in segmenters(kind).items():
            promised, gained, rates = [], [], []
            for plain, rectified in seeds:
                val = plain["val"]
                rates.append(rate_of(val["plain"]["oc"]) / 100)
                gain = difference(*(val[way]["region"][None] for way in ("plain", "true")))
                promised.append((gain.low, gain.difference, gain.high))
                before, after = plain["test"]["plain"], rectified["test"]["own, keep"]
                gained.append(mean_iou_of(after) - mean_iou_of(before))
            low, middle, high = (mean(values) for values in zip(*promised, strict=True))
            data = kind.name.removeprefix("tags_gain_")
            masks = "published masks" if data.endswith(PUBLISHED) else "masks"
            name = f"{data.removesuffix(PUBLISHED)}, {masks} of {recipe}"
            yield Found(
                addon="rectify",
                pair=Pair(name, middle, mean(gained), affected=mean(rates)),
                limits=(max(0.0, low), middle, high),
                fits=len(gained),
            )


def segmenters(kind: Path) -> dict[str, list[tuple[Any, Any]]]:
    """Recipe -> what was counted of a plain and of a rectified segmenter, a pair for each seed."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for path in sorted(kind.glob(f"*/flat-*{SUFFIX}")):
        for name in RECTIFIED:
            other = path.with_name(path.name.replace("flat", name.replace(" ", "_"), 1))
            if other.exists():
                pair = read_record(path), read_record(other)
                if "true" in pair[0].get("val", {}):
                    recipe = path.parent.name.rpartition("-")[0].removesuffix(AGAIN)
                    found.setdefault(recipe, []).append(pair)
    return found


def longest(dataset: str, runs: Path) -> str:
    """The name in files of a set's longest plain runs: `kvasirx2` of `kvasir` and `kvasirx2`."""
    pattern = re.compile(rf"{dataset}(?:x([\d.]+))?-plain-\d+")
    names = [path.name for path in runs.glob("*-plain-*")]
    found = {float(m[1] or 1): name for name in names if (m := pattern.match(name))}
    return found[max(found)].partition("-")[0] if found else dataset


def cases_of(net: Path, items: list[Item], threshold: float) -> TensorCases:
    """What a network without contexts says of items, cut at a margin between its two logits."""
    network = load_context(net).network
    margins = [
        margin(image_logits(network, item["image"]), num_context=1, merge="sum") for item in items
    ]
    return TensorCases(
        [m.sigmoid() for m in margins],
        [item["target"] for item in items],
        names=[item["name"] for item in items],
        threshold=1 / (1 + math.exp(-threshold)),
    )


def tuned_iou(scores: dict[str, Any]) -> float:
    """Pooled test IoU of a network with contexts at the threshold that is best on val."""
    at = int((GRID - scores["threshold"]).abs().argmin())
    tp, fp, fn = scores["curve"][at].tolist()
    return float(tp / (tp + fp + fn))


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def pooled(regions: Tensor) -> float:
    """IoU of the foreground of counts (N, 2, 3) added over images."""
    tp, fp, fn = regions[:, 1].sum(0).tolist()
    return tp / (tp + fp + fn)


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")
