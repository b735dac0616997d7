"""Real gain of a refiner: base at its tuned threshold against refined, on untouched test splits.

Steps, each resumable; figures come from the files that the steps before have written:

    python benchmarks/refine_gain.py bases  --data DIR --sets roads --seeds 0
    python benchmarks/refine_gain.py folds  --data DIR --sets nuclei
    python benchmarks/refine_gain.py refine --sets roads --fit-seeds 0 1 2
    python benchmarks/refine_gain.py longer --data DIR
    python benchmarks/refine_gain.py table  --out benchmarks/results

`DIR/<set>/{train,val,test}/{images,masks}`. A base is trained on `train`, with its best epoch
chosen on `val`; thresholds, baselines and refiners are fitted on `val` (or on out-of-fold maps of
`train`); `test` is only scored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from gain_bases import ARCHITECTURES, SETS, train_base, train_folds, train_longer
from gain_fits import score_baselines, score_refiners
from outcome import Cell, write_outcome
from segmend.metrics import (
    Interval,
    boundary_f_difference,
    mean_iou_difference,
    pooled_iou_difference,
)

TRAINING = {"bases": train_base, "folds": train_folds, "longer": train_longer}


def table(out: Path, results: Path, command: str) -> None:
    """Write the figures of all runs, one file a set."""
    for name, spec in SETS.items():
        rows: list[dict[str, Cell]] = []
        for architecture in ARCHITECTURES:
            scored = out.glob(f"{name}-{architecture}-*/baselines/counts")
            bases = sorted(path.parents[1] for path in scored)
            rows += rows_of(architecture, bases) if bases else []
        if not rows:
            continue
        size = "native size" if spec.side is None else f"{spec.side} px"
        notes = [
            f"{spec.folder} at {size}; differences are to the base at its tuned threshold, in "
            "points, with 95% paired bootstrap intervals over test images, averaged over fits.",
            *(
                f"Base {path.parent.name}, val IoU by epoch: {curve(path)}."
                for path in sorted(out.glob(f"{name}-*/maps.pt"))
            ),
        ]
        path = results / f"refine_gain_{name}.json"
        write_outcome(path, name=path.stem, command=command, rows=rows, notes=notes)


def curve(path: Path) -> list[float]:
    """The base's val IoU (points) at about ten epochs, the last included."""
    values = [100 * row["val_iou"] for row in torch.load(path, weights_only=True)["curve"]]
    step = max(1, len(values) // 10)
    return [round(v, 1) for v in values[::-step][::-1]]


def rows_of(architecture: str, bases: list[Path]) -> list[dict[str, Cell]]:
    """One row a method: levels, and paired differences to the tuned base, all seeds together."""
    counts: dict[str, list[tuple[Path, dict[str, Tensor]]]] = {}
    for base in bases:
        for path in sorted(base.glob("*/counts/*.pt")):
            one = torch.load(path, weights_only=True)
            counts.setdefault(one["method"], []).append((base, one))
    tuned = dict(counts["base, threshold tuned"])
    rows: list[dict[str, Cell]] = []
    for method, runs in counts.items():
        found = [one for _, one in runs]
        base = [tuned[run] for run, _ in runs]
        pooled, mean = (
            f(stack(base, "regions"), stack(found, "regions"))
            for f in (pooled_iou_difference, mean_iou_difference)
        )
        edge = boundary_f_difference(stack(base, "edges"), stack(found, "edges"))
        rows.append(
            {
                "base": architecture,
                "method": method,
                "fits": len(found),
                "pooled IoU": f"{100 * pooled.other:.1f}",
                "difference": signed(pooled),
                "per-image IoU": f"{100 * mean.other:.1f}",
                "difference ": signed(mean),
                "boundary F": f"{100 * edge.other:.1f}",
                "difference  ": signed(edge),
                "seconds": round(sum(float(f["seconds"]) for f in found) / len(found), 1),
            }
        )
    order = ["base, p > 0.5", "base, threshold tuned"]
    return sorted(rows, key=lambda r: (r["method"] not in order, str(r["method"])))


def stack(found: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.stack([f[key] for f in found])


def signed(interval: Interval) -> str:
    return f"{100 * interval.difference:+.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*TRAINING, "refine", "table"])
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/refine_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the bases")
    parser.add_argument("--fit-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", default=[""], help="parts of names; refiners without any are left"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step == "table":
        table(options.runs, options.out, "python benchmarks/refine_gain.py (all steps)")
        return
    for seed in options.seeds:
        for name in options.sets:
            for architecture in options.architectures:
                if options.step in TRAINING:
                    train = TRAINING[options.step]
                    train(name, architecture, seed, options.data, options.runs)
                    continue
                run = options.runs / f"{name}-{architecture}-{seed}"
                if not (run / "maps.pt").exists():
                    continue
                score_baselines(run)
                for fit_seed in options.fit_seeds:
                    score_refiners(name, run, fit_seed, options.methods)


if __name__ == "__main__":
    main()
