"""The methods of the gain tables: fitted on a base's val maps, scored on its test maps."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from baselines import calibrated, dense_crf, guided_filter, oracle_masks, tuned_threshold
from gain_bases import SETS, Case
from segmend.metrics import boundary_counts, region_counts
from segmend.refine import RefineOptions, Refiner
from segmend.refine.cross_validation import fit_refiner
from segmend.refine.examples import Example

Apply = Callable[[Tensor, Tensor], Tensor]
"""(logits (H, W), image (3, H, W)) -> bool mask (H, W)."""

FIELD: dict[str, object] = {"method": "bias-field"}
SEES = {**FIELD, "stride": 1, "batch_size": 8, "learning_rate": 2e-3, "use_images": "network"}
PUBLISHED: dict[str, object] = {
    "method": "patch-refine-p4",
    "width": 8,
    "batch_size": 1,
    "crop": None,
    "learning_rate": 8e-4,
    "pseudo_label_weight": 0.7,
    "folds": 0,
    "gate_confidence": 0.0,
    "merge": "published",
}
METHODS: dict[str, dict[str, object]] = {
    "bias field with guide, gated": FIELD,
    "bias field with guide, always on": FIELD,
    "bias field alone, gated": FIELD,
    "bias field alone, always on": FIELD,
    "bias field with image, gated": SEES,
    "bias field with image, always on": SEES,
    "bias field with image, out-of-fold, gated": SEES,
    "bias field with image, out-of-fold, always on": SEES,
    "bias field with pseudo-labels .5, gated": {**FIELD, "pseudo_label_weight": 0.5},
    "PRN P4 as published, width 8": PUBLISHED,
    "PRN P4 as published, width 8, crops": {**PUBLISHED, "crop": 128},
}
"""Refiners, each a row of the table. "gated" and "always on" share their networks."""


def score_baselines(run: Path) -> None:
    """Thresholds, filters and oracles: none of them has a seed."""
    saved = torch.load(run / "maps.pt", weights_only=True)
    val, test = saved["maps"]["val"], saved["maps"]["test"]
    logits, labels = [m[1][0].float() for m in val], [m[2] for m in val]
    images = [m[3].float() / 255 for m in val]
    simple: dict[str, Callable[[], Apply]] = {
        "base, p > 0.5": lambda: lambda z, image: z > 0,
        "base, threshold tuned": lambda: tuned_threshold(logits, labels),
        "temperature and bias": lambda: calibrated(logits, labels),
        "guided filter": lambda: guided_filter(logits, labels, images),
        "dense CRF": lambda: dense_crf(logits, labels, images),
    }
    for method, fit in simple.items():
        keep(run / "baselines", method, test, fit)
    keep(run / "baselines", "oracle: best threshold per image", test, None, patch=None)
    keep(run / "baselines", "oracle: best threshold per 32 px patch", test, None, patch=32)
    if (run / "longer.pt").exists():
        longer = torch.load(run / "longer.pt", weights_only=True)["maps"]
        logits = [m[1][0].float() for m in longer["val"]]
        keep(
            run / "baselines",
            "base trained longer",
            longer["test"],
            lambda: tuned_threshold(logits, labels),
        )


def score_refiners(name: str, run: Path, seed: int, methods: list[str]) -> None:
    """Fit each refiner that is asked for and keep its per-image counts on test."""
    saved = torch.load(run / "maps.pt", weights_only=True)["maps"]
    fitted: dict[str, Refiner] = {}
    for method, options in METHODS.items():
        if not any(part in method for part in methods):
            continue
        cases = saved["val"]
        if "out-of-fold" in method:
            if not (run / "out_of_fold.pt").exists():
                continue
            cases = torch.load(run / "out_of_fold.pt", weights_only=True)
        keep(
            run / f"fit-{seed}",
            method,
            saved["test"],
            lambda m=method, o=options, c=cases: refiner(name, m, o, seed, c, fitted, run),
        )


def refiner(
    name: str,
    method: str,
    options: dict[str, object],
    seed: int,
    cases: list[Case],
    fitted: dict[str, Refiner],
    run: Path,
) -> Apply:
    """A refiner as a function of one map and its image; `fitted` saves fitting one twice."""
    sees_image = "image" in method or "guide" in method
    spec = SETS[name]
    # As many steps on the larger out-of-fold set as on val: what is compared is the data.
    epochs = spec.refine_epochs
    if "out-of-fold" in method:
        epochs = max(4, epochs * 100 // len(cases))
    place = {"crop": spec.crop, "stride": spec.refine_stride}
    full = {**place, "epochs": epochs, **options, "seed": seed}
    key = json.dumps([full, sees_image, len(cases)])
    if key not in fitted:
        examples = [Example(n, z, y, i if sees_image else None) for n, z, y, i in cases]
        fitted[key] = fit_refiner(examples, RefineOptions.model_validate(full))
        fitted[key].save(run / f"fit-{seed}" / f"refiner-{len(fitted)}")
        print(f"  {method}: {fitted[key].gate}", flush=True)
    used = copy.copy(fitted[key])
    if "always on" in method:
        used.gate = used.gate.opened()

    def apply(z: Tensor, image: Tensor) -> Tensor:
        seen = image[None] if sees_image else None
        return used(z.sigmoid()[None, None], seen)[0, 0] > 0.5

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
