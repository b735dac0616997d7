"""Real gain of a refiner: base at its tuned threshold against refined, on untouched test splits.

Three steps, each resumable; figures come from the files that the step before has written:

    python benchmarks/refine_gain.py bases  --data DIR --sets roads --seeds 0 1 2
    python benchmarks/refine_gain.py refine --sets roads --seeds 0 1 2 --fit-seeds 0 1 2
    python benchmarks/refine_gain.py table  --out benchmarks/results

`DIR/<set>/{train,val,test}/{images,masks}`. A base is trained on `train`, with its best epoch
chosen on `val`; thresholds, baselines and refiners are fitted on `val`; `test` is only scored.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from baselines import calibrated, dense_crf, guided_filter, oracle_masks, tuned_threshold
from outcome import Cell, write_outcome
from segmend.metrics import (
    Interval,
    boundary_counts,
    boundary_f_difference,
    mean_iou_difference,
    pooled_iou_difference,
    region_counts,
)
from segmend.refine import RefineOptions, Refiner
from segmend.refine.cross_validation import fit_refiner
from segmend.refine.examples import Example


@dataclass(frozen=True)
class Set:
    """A data set, at which scale it is worked on, and how its bases are trained."""

    folder: str
    side: int | None  # longest side in pixels after shrinking; None leaves images as they are
    epochs: int
    crop: int
    batch_size: int
    refine_epochs: int


SETS = {
    "kvasir": Set("kvasir-seg", 128, 30, 128, 16, 40),
    "roads": Set("epfl-roads", None, 100, 256, 4, 80),
    "nuclei": Set("bbbc038-nuclei", None, 16, 128, 8, 20),
}
ARCHITECTURES = ("fpn", "unet")

# What is compared; each row of the table is one of these against the base at its tuned threshold.
METHODS = {
    "bias field, gated": {"method": "bias-field"},
    "bias field, always on": {"method": "bias-field"},
    "bias field, one network, no gate": {"method": "bias-field", "folds": 0},
    "bias field with pseudo-labels .5, gated": {"method": "bias-field", "pseudo_label_weight": 0.5},
    "bias field with RGB, gated": {"method": "bias-field"},
    "PRN P4 as published, width 8": {
        "method": "patch-refine-p4",
        "width": 8,
        "batch_size": 1,
        "crop": None,
        "learning_rate": 8e-4,
        "pseudo_label_weight": 0.7,
        "folds": 0,
        "gate_confidence": 0.0,
        "merge": "published",
    },
}


def prepare(spec: Set, data: Path, out: Path) -> Path:
    """Shrink a set by area averaging; masks are cut at one half."""
    target = out / "data" / spec.folder
    if (target / "done").exists():
        return target
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            folder = target / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted((data / spec.folder / split / kind).iterdir()):
                image = Image.open(path).convert("RGB" if kind == "images" else "L")
                factor = 1 if spec.side is None else spec.side / max(image.size)
                size = (round(image.width * factor), round(image.height * factor))
                image = image.resize(size, Image.Resampling.BOX)
                if kind == "masks":
                    image = image.point(lambda v: 255 if v > 127 else 0)
                image.save(folder / f"{path.stem}.png")
    (target / "done").touch()
    return target


def train_base(name: str, architecture: str, seed: int, data: Path, out: Path) -> None:
    """Train one base and keep its maps of val and test."""
    from segmend.data.folders import SegmentationFolder
    from segmend.engine.checkpoints import load_segmenter
    from segmend.engine.prediction import predict_probabilities
    from segmend.engine.training import TrainOptions, train_segmenter
    from segmend.models.pretrained import nuclei_base
    from segmend.models.segmenters import build_segmenter

    run = out / f"{name}-{architecture}-{seed}"
    if (run / "maps.pt").exists():
        return
    spec = SETS[name]
    root = prepare(spec, data, out)
    sets = {
        split: SegmentationFolder(root / split / "images", root / split / "masks")
        for split in ("train", "val", "test")
    }
    start = time.perf_counter()
    if (name, architecture, seed) == ("nuclei", "fpn", 0):
        # The shipped base is this very run, but for its 24 selection images (demo_base.py).
        checkpoint = nuclei_base()
        curve = json.loads((checkpoint / "curve.json").read_text("utf-8"))
    else:
        torch.manual_seed(seed)
        options = TrainOptions(
            epochs=spec.epochs, crop=spec.crop, batch_size=spec.batch_size, seed=seed, threads=1
        )
        result = train_segmenter(
            build_segmenter(architecture),
            sets["train"],
            sets["val"],
            options=options,
            out=run / "base",
            progress=False,
        )
        checkpoint, curve = result.checkpoint, result.curve
    seconds = time.perf_counter() - start
    model, _ = load_segmenter(checkpoint)
    maps: dict[str, list[Case]] = {}
    for split in ("val", "test"):
        rows = []
        for index, (item, probs) in enumerate(predict_probabilities(model, sets[split])):
            sample = sets[split][index]
            logits = probs.clamp(1e-4, 1 - 1e-4).logit().half()
            image = (sample["image"] * 255).round().byte()
            rows.append((item, logits, sample["target"].byte(), image))
        maps[split] = rows
    run.mkdir(parents=True, exist_ok=True)
    torch.save({"maps": maps, "curve": curve, "seconds": seconds}, run / "maps.pt")


def score_run(name: str, run: Path, seed: int, methods: list[str]) -> None:
    """Fit every method on the base's val maps and keep its per-image counts on test."""
    saved = torch.load(run / "maps.pt", weights_only=True)
    run = run / f"fit-{seed}"
    val, test = saved["maps"]["val"], saved["maps"]["test"]
    logits, labels = [m[1][0].float() for m in val], [m[2] for m in val]
    images = [m[3].float() / 255 for m in val]
    simple: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
        "base, p > 0.5": lambda: lambda z, image: z > 0,
        "base, threshold tuned": lambda: tuned_threshold(logits, labels),
        "temperature and bias": lambda: calibrated(logits, labels),
        "guided filter": lambda: guided_filter(logits, labels, images),
        "dense CRF": lambda: dense_crf(logits, labels, images),
    }
    for method, fit in simple.items():
        keep(run, method, test, fit)
    fitted: dict[str, Refiner] = {}
    for method, options in METHODS.items():
        if not any(part in method for part in methods):
            continue
        keep(run, method, test, lambda m=method, o=options: refiner(name, m, o, seed, val, fitted))
    keep(run, "oracle: best threshold per image", test, None, patch=None)
    keep(run, "oracle: best threshold per 32 px patch", test, None, patch=32)


Case = tuple[str, Tensor, Tensor, Tensor]
"""Name, logits (1, H, W), labels (H, W) and image (3, H, W), the last two as bytes."""


def refiner(
    name: str,
    method: str,
    options: dict[str, object],
    seed: int,
    val: list[Case],
    fitted: dict[str, Refiner],
) -> Callable[[Tensor, Tensor], Tensor]:
    """A refiner as a function of one map and its image; `fitted` saves fitting one twice."""
    rgb = "RGB" in method
    full = {"epochs": SETS[name].refine_epochs, "crop": 128, "stride": 2, **options, "seed": seed}
    key = json.dumps([full, rgb])
    if key not in fitted:
        examples = [Example(n, z, y, i if rgb else None) for n, z, y, i in val]
        fitted[key] = fit_refiner(examples, RefineOptions.model_validate(full))
        print(f"  {method}: {fitted[key].gate}", flush=True)
    used = copy.copy(fitted[key])
    if "always on" in method:
        used.gate = used.gate.opened()

    def apply(z: Tensor, image: Tensor) -> Tensor:
        return used(z.sigmoid()[None, None], image[None] if rgb else None)[0, 0] > 0.5

    return apply


def keep(
    run: Path,
    method: str,
    test: list[Case],
    fit: Callable[[], Callable[[Tensor, Tensor], Tensor]] | None,
    *,
    patch: int | None = None,
) -> None:
    """Score one method on the test maps, unless its counts are there already."""
    path = run / "counts" / (method.replace(" ", "_").replace(">", "gt") + ".pt")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    apply = fit() if fit is not None else None
    seconds = time.perf_counter() - start
    regions, edges = [], []
    for _, z, y, image in test:
        mask = (
            oracle_masks(z[0], y, patch)
            if apply is None
            else apply(z[0].float(), image.float() / 255)
        )
        pair = mask.long()[None], y.long()[None]
        regions.append(region_counts(*pair))
        edges.append(boundary_counts(*pair))
    counts = {"method": method, "seconds": seconds}
    torch.save({**counts, "regions": torch.cat(regions), "edges": torch.cat(edges)}, path)
    print(f"{run.parent.name} {run.name}: {method} ({seconds:.0f} s)", flush=True)


def table(out: Path, results: Path, command: str) -> None:
    """Write the figures of all runs, one file a set."""
    for name, spec in SETS.items():
        rows: list[dict[str, Cell]] = []
        for architecture in ARCHITECTURES:
            runs = sorted(p.parent for p in out.glob(f"{name}-{architecture}-*/fit-*/counts"))
            rows += rows_of(architecture, runs) if runs else []
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


def rows_of(architecture: str, runs: list[Path]) -> list[dict[str, Cell]]:
    """One row a method: levels, and paired differences to the tuned base over all seeds."""
    counts: dict[str, dict[Path, dict[str, Tensor]]] = {}
    for run in runs:
        for path in sorted((run / "counts").glob("*.pt")):
            one = torch.load(path, weights_only=True)
            counts.setdefault(one["method"], {})[run] = one
    rows: list[dict[str, Cell]] = []
    for method, by_run in counts.items():
        found = list(by_run.values())
        base = [counts["base, threshold tuned"][run] for run in by_run]
        pooled, mean = (
            f(stack(base, "regions"), stack(found, "regions"))
            for f in (pooled_iou_difference, mean_iou_difference)
        )
        edge = boundary_f_difference(stack(base, "edges"), stack(found, "edges"))
        rows.append(
            {
                "base": architecture,
                "method": method,
                "bases x fits in all": f"{len({r.parent for r in by_run})} x {len(by_run)}",
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
    parser.add_argument("step", choices=["bases", "refine", "table"])
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/refine_gain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fit-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", default=[""], help="parts of names; refiners without any are left"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step == "table":
        table(options.runs, options.out, "python benchmarks/refine_gain.py bases|refine|table")
        return
    for seed in options.seeds:
        for name in options.sets:
            for architecture in options.architectures:
                if options.step == "bases":
                    train_base(name, architecture, seed, options.data, options.runs)
                    continue
                run = options.runs / f"{name}-{architecture}-{seed}"
                for fit_seed in options.fit_seeds if (run / "maps.pt").exists() else ():
                    score_run(name, run, fit_seed, options.methods)


if __name__ == "__main__":
    main()
