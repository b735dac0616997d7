"""Does the diagnosis predict what an add-on gains? Predicted on val, measured on test, by rank.

Pairs of model and data set come from the gain tables' runs: refiners of `refine_gain.py`, context
labels of `context_gain.py` on its flat sets (`--data` as there). A pair's own outcome is left out
of the shares that its prediction is discounted by.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from context_gain import BEST, RECORDS
from context_sets import SETS, Item
from outcome import Cell, write_outcome
from records import SUFFIX, read_record
from segmend.context.evaluation import GRID, margin
from segmend.context.inference import image_logits
from segmend.context.networks import load_context
from segmend.diagnose.decompose import measure
from segmend.diagnose.dry_run import DryRun, guided_dry_run
from segmend.diagnose.reading import TensorCases
from segmend.diagnose.recovered import PAIRS, TRUST, Pair
from segmend.diagnose.result import Addon
from segmend.diagnose.verdict import expected_gain, reachable_gain

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


def longest(dataset: str, runs: Path) -> str:
    """The name in files of a set's longest plain runs: `kvasirx2` of `kvasir` and `kvasirx2`."""
    found = {
        float(path.name.partition("-")[0].removeprefix(dataset)[1:] or 1): path.name
        for path in runs.glob(f"{dataset}*-plain-*")
    }
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


def table(found: list[Found]) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for one in found:
        rest = [other.pair for other in found if other.addon == one.addon and other is not one]
        low, expected, high = expected_gain(one.addon, one.limits, one.trial, pairs=rest)
        without = expected_gain(one.addon, one.limits, None, pairs=rest)[1]
        rows.append(
            {
                "pair": one.pair.name,
                "add-on": one.addon,
                "patch oracle": points(one.patches),
                "reachable": points(one.pair.reachable),
                "dry run": points(one.pair.tried),
                "share alone": points(without),
                "predicted": points(expected),
                "from": points(low),
                "to": points(high),
                "gained, gated": points(one.pair.gained),
                "gained, always on": points(one.always_on),
                "fits": one.fits,
            }
        )
    return rows


def points(gain: float | None) -> float | None:
    return None if gain is None else round(100 * gain, 2)


def correlation(rows: list[dict[str, Cell]], predicted: str, gained: str) -> str:
    """Spearman's rank correlation over the rows that have both figures."""
    pairs = [(r[predicted], r[gained]) for r in rows if None not in (r[predicted], r[gained])]
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) < 2 for i in (0, 1)):
        return "not defined"
    result = spearmanr(*zip(*pairs, strict=True))
    return f"{result.statistic:+.2f} (p = {result.pvalue:.2f}, {len(pairs)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/refine_gain"))
    parser.add_argument("--contexts", type=Path, default=Path("runs/context_gain"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [*refine_pairs(options.runs), *context_pairs(options.contexts, options.data)]
    rows = table(found)
    notes = [
        "Points of pooled IoU. Predicted on val by the diagnosis, gained on test over the base at "
        "its tuned threshold, mean over fits.",
        f"context: {BEST} of the context table against plain training, both at the threshold that "
        "is best on val. With only two other sets to learn a share from, a quarter is predicted.",
        "Predicted: the dry run times what the other pairs' dry runs came to; share alone: the "
        "reachable gain times what the other pairs recovered, which is what is left without "
        "images.",
        f"Dry runs are trusted as if one that promised {100 * TRUST:g} points had kept it; this "
        "weight was chosen with these nine pairs in view, new ones are to confirm it.",
    ]
    refined = [row for row in rows if row["add-on"] == "refine"]
    for of, some in (("refiners", refined), ("all", rows)):
        for gained in ("gained, gated", "gained, always on"):
            ranks = "; ".join(
                f"{name} {correlation(some, name, gained)}"
                for name in ("predicted", "dry run", "reachable", "patch oracle", "share alone")
            )
            notes.append(f"Rank correlation of {of} with “{gained}”: {ranks}.")
    print(*rows, *notes, sep="\n")
    for addon, known in PAIRS.items():
        current = tuple(
            Pair(p.name, round(p.reachable, 4), round(p.gained, 4), rounded(p.tried))
            for p in (one.pair for one in found if one.addon == addon)
        )
        if current != known:
            print(f"segmend/diagnose/recovered.py is out of date; of {addon} it should hold:")
            print(*(f"    {pair}," for pair in current), sep="\n")
    if options.out is not None:
        command = "python benchmarks/predicted_gain.py"
        write_outcome(options.out, name="predicted_gain", command=command, rows=rows, notes=notes)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
