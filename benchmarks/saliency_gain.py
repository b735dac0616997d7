"""Real gain on grey-level maps: MAE and maximal F of a base, calibrated, and refined.

    python benchmarks/refine_gain.py bases --data DIR --sets kvasir nuclei   (the bases)
    python benchmarks/saliency_gain.py [--bases kvasir-fpn-0 ...] [--out FILE.json]

Here the target is what stands out, and the map itself is the answer: no threshold is set, neither
the base's nor the refiner's. Everything is fitted on the maps of `val` and scored on those of
`test`. MAE likes bold maps, so a base whose logits are multiplied by what is best on `val` stands
beside. Counts are kept in the base's folder: what is there is not fitted again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from baselines import platt_scaling
from gain_bases import SETS, Case
from outcome import Cell, write_outcome
from segmend.metrics import Interval, paired_bootstrap
from segmend.metrics.checks import score_histogram
from segmend.metrics.saliency import LEVELS, f_measure, mean_absolute_error, precision_recall
from segmend.refine import RefineOptions, Refiner
from segmend.refine.cross_validation import fit_refiner
from segmend.refine.examples import Example

BASES = ("kvasir-fpn-0", "kvasir-unet-0", "nuclei-fpn-0", "nuclei-unet-0")
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
COMMAND = "python benchmarks/saliency_gain.py"

Apply = Callable[[Tensor, Tensor], Tensor]
"""(logits (1, H, W), image (3, H, W) in [0, 1]) -> probabilities (H, W)."""


def counts(cases: list[Case], apply: Apply) -> Tensor:
    """A row an image, (N, 2 + 2 * LEVELS): error, 1, precision and recall at every level."""
    rows = []
    for _, logits, labels, image in cases:
        probs = apply(logits.float(), image.float() / 255)[None]
        truth = labels.long()[None]
        valid = truth != 255
        histogram = score_histogram(probs, (truth == 1) & valid, valid, levels=LEVELS)
        precision, recall = precision_recall(histogram)
        error = mean_absolute_error(probs, truth)[:, None]
        rows.append(torch.cat([error, torch.ones_like(error), precision, recall], dim=1))
    return torch.cat(rows)


def mae(sums: Tensor) -> Tensor:
    return sums[..., 0] / sums[..., 1]


def maximal_f(sums: Tensor) -> Tensor:
    precision, recall = (sums[..., 2:] / sums[..., 1:2]).split(LEVELS, dim=-1)
    return f_measure(precision, recall).amax(-1)


def fit(name: str, cases: list[Case], seed: int) -> Refiner:
    """A refiner with the gate's default, fitted to grey-level maps."""
    spec = SETS[name]
    options = RefineOptions(
        task="saliency",
        crop=spec.crop,
        stride=spec.refine_stride,
        epochs=spec.refine_epochs,
        seed=seed,
    )
    return fit_refiner([Example(n, z, y, i) for n, z, y, i in cases], options)


def refined(refiner: Refiner) -> Apply:
    return lambda z, image: refiner(z.sigmoid()[None], image[None])[0, 0]


def steeper(cases: list[Case]) -> float:
    """The factor of the logits that gives the lowest MAE."""
    errors = {
        factor: float(mae(counts(cases, lambda z, image, f=factor: (f * z[0]).sigmoid()).sum(0)))
        for factor in FACTORS
    }
    return min(errors, key=lambda factor: errors[factor])


def found_for(run: Path, name: str, fit_seeds: list[int]) -> dict[str, list[Tensor]]:
    """Counts on test of every method, by fit."""
    maps = torch.load(run / "maps.pt", weights_only=True)["maps"]
    val, test = maps["val"], maps["test"]
    scale, bias = platt_scaling([m[1][0].float() for m in val], [m[2] for m in val])
    factor = steeper(val)
    found = {
        "base": [counts(test, lambda z, image: z[0].sigmoid())],
        "calibrated": [counts(test, lambda z, image: (scale * z[0] + bias).sigmoid())],
        f"logits times {factor:g}": [counts(test, lambda z, image: (factor * z[0]).sigmoid())],
        "refined, gated": [],
        "refined, always on": [],
    }
    for seed in fit_seeds:
        path = run / "saliency" / f"{seed}.pt"
        if not path.exists():
            refiner = fit(name, val, seed)
            print(run.name, seed, refiner.gate, flush=True)
            both = {"refined, gated": counts(test, refined(refiner))}
            refiner.gate = refiner.gate.opened()
            both["refined, always on"] = counts(test, refined(refiner))
            path.parent.mkdir(exist_ok=True)
            torch.save(both, path)
        for method, rows in torch.load(path, weights_only=True).items():
            found[method].append(rows)
    return found


def rows_of(base: str, runs: Path, fit_seeds: list[int]) -> list[dict[str, Cell]]:
    found = found_for(runs / base, base.split("-")[0], fit_seeds)
    (alone,) = found["base"]
    rows: list[dict[str, Cell]] = []
    for method, seeds in found.items():
        rows.append({"base": base.rsplit("-", 1)[0], "method": method, "fits": len(seeds)})
        for title, statistic in (("MAE", mae), ("maximal F", maximal_f)):
            stack = torch.stack(seeds)
            interval = paired_bootstrap(alone.expand_as(stack), stack, statistic=statistic)
            rows[-1][title] = f"{100 * interval.other:.2f}"
            rows[-1][f"{title}, difference"] = "" if method == "base" else signed(interval)
        print(rows[-1], flush=True)
    return rows


def signed(found: Interval) -> str:
    return f"{100 * found.difference:+.2f} [{100 * found.low:.2f}, {100 * found.high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--fit-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/refine_gain"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for base in options.bases for row in rows_of(base, options.runs, options.fit_seeds)]
    if options.out:
        notes = [
            "In points (hundredths); MAE: lower is better. Intervals: 95% paired bootstrap over "
            "test images, averaged over fits. F with beta^2 = 0.3, maximal over 256 levels.",
            "calibrated: temperature and bias fitted on val by cross-entropy; logits times: by the "
            "factor of the lowest MAE on val.",
        ]
        write_outcome(options.out, name="saliency_gain", command=COMMAND, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
