"""Gain of context labels: one network trained plainly, with fixed and with learned contexts.

Two steps, resumable run by run; figures come from the files that the first step has kept:

    python benchmarks/context_gain.py fit   --data DIR --sets hippocampus --methods plain learned2
    python benchmarks/context_gain.py table --out benchmarks/results

Networks are written to `--runs`, what they scored to `benchmarks/records`, from which a table is
made; a run with a record is not repeated. `DIR` holds msd-hippocampus, kvasir-seg and
bbbc038-nuclei; the crowded sets are drawn. All methods of a set share network, crops, steps and
learning rate. The threshold is tuned on val for each network and each way of merging contexts; test
is only scored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from context_sets import SETS
from outcome import Cell, write_outcome
from records import FOLDER, SUFFIX, keep_record, read_record, stem_of
from segmend.context.evaluation import (
    GRID,
    MERGES,
    hold_target,
    mean_scores,
    score_contexts,
    score_difference,
)
from segmend.metrics import Interval
from segmend.metrics.volume import FIELDS

PUBLISHED = {"dice": "published", "generator_lr": 3e-4}
FAST = {"dice": "foreground", "generator_lr": 3e-3}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain", "num_context": 1},
    "kmeans2": {"method": "kmeans", "num_context": 2},
    "kmeans4": {"method": "kmeans", "num_context": 4},
    "dilate": {"method": "dilate", "num_context": 2},
    "bands4": {"method": "bands", "num_context": 4},
    "random2": {"method": "random", "num_context": 2},
    "learned2": {"method": "learned", "num_context": 2},
    "learned4": {"method": "learned", "num_context": 4},
    "learned6": {"method": "learned", "num_context": 6},
    "learned2-foreground": {"method": "learned", "num_context": 2, "dice": "foreground"},
    "learned4-foreground": {"method": "learned", "num_context": 4, "dice": "foreground"},
    "dilate-foreground": {"method": "dilate", "num_context": 2, "dice": "foreground"},
    "kmeans2-foreground": {"method": "kmeans", "num_context": 2, "dice": "foreground"},
    "structures": {"method": "maps", "num_context": 5, "dice": "foreground"},
    "learned2-fast": {"method": "learned", "num_context": 2, **FAST},
    "learned4-fast": {"method": "learned", "num_context": 4, **FAST},
    "learned6-fast": {"method": "learned", "num_context": 6, **FAST},
}
"""Name of a row -> its settings. "-foreground": the Dice of the foreground alone; "-fast": so, with
a generator that learns ten times as fast as published. "structures": labels made by hand, as the
drawing of a set knows them."""


BEST = "learned2-fast"
"""The row that all others are compared with, beside plain."""

FACTORS = {"dice": 100, "precision": 100, "sensitivity": 100, "hd95": 1}
"""What the table shows, and its unit."""


RECORDS = FOLDER / "context_gain"


def fit(name: str, method: str, seed: int, options: argparse.Namespace) -> None:
    """Train and score one network."""
    from segmend.context.jobs import load_context, train_context
    from segmend.context.options import ContextOptions

    label = f"{labelled(name, options.effort)}-{method}-{seed}"
    record, run = RECORDS / f"{label}{SUFFIX}", options.runs / label
    if record.exists():
        return
    spec = SETS[name]
    items = spec.read(options.data)
    settings = {**PUBLISHED, **spec.settings, **METHODS[method], "precision": options.precision}
    settings["epochs"] = max(1, round(options.effort * settings["epochs"]))
    wanted = ContextOptions(**settings, seed=seed, threads=torch.get_num_threads())
    start, cpu = time.perf_counter(), time.process_time()
    result = train_context(
        items["train"], items["val"], options=wanted, out=run / "net", progress=False
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    loaded = load_context(result.checkpoint)
    found = score_contexts(
        loaded.network,
        items["val"],
        items["test"],
        num_context=wanted.num_context,
        window=loaded.window,
        progress=False,
    )
    scores = {merge: vars(score) for merge, score in found.items()}
    content = {"scores": scores, "curve": result.curve, "seconds": seconds, "cpu": cpu}
    keep_record(record, content)
    means = mean_scores(found["sum"].tuned)
    print(name, method, seed, {k: round(v, 3) for k, v in means.items()}, flush=True)


def labelled(name: str, effort: float) -> str:
    """A set's name in files: with how many times its epochs, where that is not once."""
    return name if effort == 1 else f"{name}x{effort:g}"


def table(results: Path, command: str, *, effort: float) -> None:
    """One file a set: levels, paired differences to plain, and the background's margins."""
    for name, spec in SETS.items():
        label = labelled(name, effort)
        runs: dict[str, dict[int, Any]] = {}
        for path in sorted(RECORDS.glob(f"{label}-*{SUFFIX}")):
            method, _, seed = stem_of(path).removeprefix(f"{label}-").rpartition("-")
            runs.setdefault(method, {})[int(seed)] = read_record(path)
        if "plain" not in runs:
            continue
        order = [m for m in METHODS if m in runs]
        rows = [row_of(m, merge, runs) for m in order for merge in merges_of(m)]
        epochs = round(effort * spec.settings["epochs"])
        notes = [
            f"{spec.what}, {epochs} epochs. Threshold tuned on val by mean Dice a case. Dice, "
            "precision, sensitivity and HD95: means over the test cases that hold a target; "
            f"differences to plain of the same seeds (and of {BEST} to the row), in points, with "
            "95% paired bootstrap intervals over cases, averaged over seeds. False components: an "
            "image, over all cases.",
            "margin: mean logit distance of background to the boundary at one half; beyond: share "
            "of background (per 10 000 voxels) on the wrong side of it. best Dice: of the pooled "
            "precision / recall curve on test.",
            *(f"{m}, val IoU by epoch: {curve(runs[m])}." for m in order),
        ]
        path = results / f"context_gain_{label}.json"
        write_outcome(path, name=path.stem, command=command, rows=rows, notes=notes)


def merges_of(method: str) -> tuple[str, ...]:
    return ("sum",) if METHODS[method]["num_context"] == 1 else MERGES


def row_of(method: str, merge: str, runs: dict[str, dict[int, Any]]) -> dict[str, Cell]:
    """Levels over all seeds of a method; differences over those that plain has, too."""
    found = {seed: run["scores"][merge] for seed, run in runs[method].items()}
    tuned = torch.stack([f["tuned"] for f in found.values()])
    holds = hold_target(tuned[0])
    seeds = [mean_scores(rows) for rows in tuned]
    means = {field: sum(seed[field] for seed in seeds) / len(seeds) for field in FIELDS}
    background = torch.stack([f["background"].sum(0) for f in found.values()]).sum(0)

    def over(base: str, base_merge: str, other: str, other_merge: str, field: str) -> str:
        """By how much `other` is above `base`, with the seeds that both have."""
        shared = sorted(runs.get(base, {}).keys() & runs.get(other, {}).keys())
        if (base, base_merge) == (other, other_merge) or not shared:
            return ""
        column = FIELDS.index(field)
        pair = (
            torch.stack([runs[m][s]["scores"][how]["tuned"][holds, column] for s in shared])
            for m, how in ((base, base_merge), (other, other_merge))
        )
        return signed(score_difference(*pair), FACTORS[field])

    row: dict[str, Cell] = {"method": method, "merge": merge, "seeds": len(found)}
    for field, factor in FACTORS.items():
        row[field] = round(factor * means[field], 1)
        row[f"{field} difference"] = over("plain", "sum", method, merge, field)
    row[f"dice, {BEST} over it"] = over(method, merge, BEST, "sum", "dice")
    row["false components"] = round(means["false_positives"], 2)
    row["lesion F1"] = round(100 * means["lesion_f1"], 1)
    row["best Dice"] = round(100 * best_dice([f["curve"] for f in found.values()]), 1)
    row["margin"] = round(float(background[1] / background[0]), 2)
    row["beyond"] = round(float(1e4 * background[2] / background[0]), 1)
    row["minutes"] = round(sum(r["cpu"] for r in runs[method].values()) / len(found) / 60, 1)
    return row


def best_dice(curves: list[Tensor]) -> float:
    """Mean over seeds of the highest Dice of pooled [tp, fp, fn] along the thresholds."""
    values = []
    for curve in curves:
        tp, fp, fn = curve.double().unbind(-1)
        values.append(float((2 * tp / (2 * tp + fp + fn).clamp(min=1)).max()))
    assert len(GRID) == len(curves[0])
    return sum(values) / len(values)


def curve(runs: dict[int, Any]) -> list[float]:
    """Val IoU (points) of the first seed at about ten epochs, the last included."""
    values = [100 * row["val_iou"] for row in next(iter(runs.values()))["curve"]]
    step = max(1, len(values) // 10)
    return [round(v, 1) for v in values[::-step][::-1]]


def signed(interval: Interval, factor: float) -> str:
    low, high = factor * interval.low, factor * interval.high
    return f"{factor * interval.difference:+.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["fit", "table"])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/context_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--effort", type=float, default=1.0, help="times the epochs of a set")
    parser.add_argument("--precision", default="32-true", help="auto: bfloat16 where it is fast")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step == "table":
        command = f"python benchmarks/context_gain.py fit|table --precision {options.precision}"
        table(options.out, command, effort=options.effort)
        return
    for seed in options.seeds:
        for name in options.sets:
            for method in options.methods:
                fit(name, method, seed, options)


if __name__ == "__main__":
    main()
