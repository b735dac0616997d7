"""The base models of the gain tables: trained on `train`, their maps of val and test kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

Case = tuple[str, Tensor, Tensor, Tensor]
"""Name, logits (1, H, W), labels (H, W) and image (3, H, W), the last two as bytes."""

FOLDS = 2
"""Bases behind the out-of-fold maps of `train`."""


@dataclass(frozen=True)
class Set:
    """A data set, at which scale it is worked on, and how its bases are trained."""

    folder: str
    side: int | None  # longest side in pixels after shrinking; None leaves images as they are
    epochs: int
    crop: int
    batch_size: int
    refine_epochs: int
    refine_stride: int  # of the bias field: small for small objects


SETS = {
    "kvasir": Set("kvasir-seg", 128, 30, 128, 16, 40, 8),
    "roads": Set("epfl-roads", None, 100, 256, 4, 80, 8),
    "nuclei": Set("bbbc038-nuclei", None, 16, 128, 8, 20, 2),
    # Smaller frames and shorter trainings: worse bases, to see whether there is more to mend.
    "kvasir96": Set("kvasir-seg", 96, 16, 96, 16, 40, 8),
    "roads200": Set("epfl-roads", 200, 60, 160, 4, 80, 8),
}
ARCHITECTURES = ("fpn", "unet")


def prepare(spec: Set, data: Path, out: Path) -> Path:
    """Shrink a set by area averaging; masks are cut at one half."""
    target = out / "data" / f"{spec.folder}-{spec.side or 'native'}"
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
    from segmend.engine.checkpoints import load_segmenter
    from segmend.engine.training import TrainOptions, train_segmenter
    from segmend.models.pretrained import nuclei_base
    from segmend.models.segmenters import build_segmenter

    run = out / f"{name}-{architecture}-{seed}"
    if (run / "maps.pt").exists():
        return
    sets = read_sets(name, data, out)
    start = time.perf_counter()
    if (name, architecture, seed) == ("nuclei", "fpn", 0):
        # The shipped base is this very run, but for its 24 selection images (demo_base.py).
        checkpoint = nuclei_base()
        curve = json.loads((checkpoint / "curve.json").read_text("utf-8"))
    else:
        torch.manual_seed(seed)
        result = train_segmenter(
            build_segmenter(architecture),
            sets["train"],
            sets["val"],
            options=TrainOptions(**training(SETS[name], seed)),
            out=run / "base",
            progress=False,
        )
        checkpoint, curve = result.checkpoint, result.curve
    seconds = time.perf_counter() - start
    model, _ = load_segmenter(checkpoint)
    maps = {split: maps_of(model, sets[split]) for split in ("val", "test")}
    run.mkdir(parents=True, exist_ok=True)
    torch.save({"maps": maps, "curve": curve, "seconds": seconds}, run / "maps.pt")


def train_folds(name: str, architecture: str, seed: int, data: Path, out: Path) -> None:
    """Maps of `train`, each image predicted by a base that was not trained on it."""
    from segmend.engine.prediction import Part
    from segmend.engine.training import TrainOptions, train_segmenter
    from segmend.models.segmenters import build_segmenter

    run = out / f"{name}-{architecture}-{seed}"
    if (run / "out_of_fold.pt").exists():
        return
    items = read_sets(name, data, out)["train"]
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    rows: list[Case] = []
    for fold in range(FOLDS):
        unseen = sorted(order[fold::FOLDS])
        torch.manual_seed(seed + fold)
        model = build_segmenter(architecture)
        train_segmenter(
            model,
            Part(items, sorted(set(order) - set(unseen))),
            None,
            options=TrainOptions(**training(SETS[name], seed)),
            out=run / f"fold-{fold}",
            progress=False,
        )
        rows += maps_of(model, Part(items, unseen))
    torch.save(rows, run / "out_of_fold.pt")


def train_longer(name: str, architecture: str, seed: int, data: Path, out: Path) -> None:
    """The base trained on, for as long as fitting the costliest refiner took; maps of both."""
    from segmend.engine.checkpoints import load_segmenter
    from segmend.engine.training import TrainOptions, train_segmenter
    from segmend.models.pretrained import nuclei_base

    run = out / f"{name}-{architecture}-{seed}"
    fits = [torch.load(p, weights_only=True) for p in run.glob("fit-*/counts/bias_field*.pt")]
    if (run / "longer.pt").exists() or not fits:
        return
    spec, sets = SETS[name], read_sets(name, data, out)
    shipped = (name, architecture, seed) == ("nuclei", "fpn", 0)
    checkpoint = nuclei_base() if shipped else run / "base"
    curve = json.loads((checkpoint / "curve.json").read_text("utf-8"))
    epoch = sum(row["seconds"] for row in curve) / len(curve)
    budget = max(float(f["seconds"]) for f in fits)
    epochs = max(1, round(budget / epoch))
    model, _ = load_segmenter(checkpoint)
    # One more cycle at a third of the rate: the weights are good, and are to stay so.
    options = {**training(spec, seed + 100), "epochs": epochs, "lr": 1e-3 / 3}
    result = train_segmenter(
        model,
        sets["train"],
        sets["val"],
        options=TrainOptions(**options),
        out=run / "longer",
        progress=False,
    )
    maps = {split: maps_of(model, sets[split]) for split in ("val", "test")}
    torch.save({"maps": maps, "curve": result.curve, "epochs": epochs}, run / "longer.pt")


def training(spec: Set, seed: int) -> dict[str, Any]:
    """Settings of one base, as `TrainOptions` takes them."""
    return {
        "epochs": spec.epochs,
        "crop": spec.crop,
        "batch_size": spec.batch_size,
        "seed": seed,
        "threads": torch.get_num_threads(),
    }


def read_sets(name: str, data: Path, out: Path) -> Mapping[str, Any]:
    """The three splits of a set, at the scale that it is worked on."""
    from segmend.data.folders import SegmentationFolder

    root = prepare(SETS[name], data, out)
    return {
        split: SegmentationFolder(root / split / "images", root / split / "masks")
        for split in ("train", "val", "test")
    }


def maps_of(model: nn.Module, items: Any) -> list[Case]:
    """A base's logits of every item, with its labels and image."""
    from segmend.engine.prediction import predict_probabilities

    rows = []
    for index, (name, probs) in enumerate(predict_probabilities(model, items)):
        sample = items[index]
        logits = probs.clamp(1e-4, 1 - 1e-4).logit().half()
        image = (sample["image"] * 255).round().byte()
        rows.append((name, logits, sample["target"].byte(), image))
    return rows
