"""One training step of each full-scale recipe of `segmend tags`: does it run, what does it need?

    python benchmarks/dry_run.py --out benchmarks/results/dry_run.json

Images are procedural, in the VOC layout, 500x375, with as many classes as the data set has; crops,
loss, optimiser and precision are the recipe's, weights are random. Each step runs in a process of
its own, so that its peak of memory is its own. On a CPU the batch is cut to `--batch`, on a GPU it
is the recipe's. Rows that are in the file already, of the same device and batch, are kept:
interrupt it, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from outcome import Cell, write_outcome
from segmend.cli.run_options import resolve_run
from segmend.cli.settings import bundled_recipes
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.engine.crops import CropSet, collate
from segmend.engine.options import TrainOptions, pick_device, resolve_precision
from segmend.engine.training import freeze
from segmend.rectify.network import build_rectified
from segmend.rectify.task import RectifyCrops, RectifyTask
from segmend.tags.affinity_jobs import AffinitySpec, build_affinity, small_labels
from segmend.tags.method_loss import Step, method_loss
from segmend.tags.network import build_classifier
from segmend.tags.options import TagOptions
from segmend.tags.task import TagCrops, TaggedItems

SIZE = (375, 500)
CLASSES = {"voc": 21, "coco": 81}
STEPS = 2
"""The second one is timed: the first also allocates."""


def recipes() -> list[str]:
    return [n for n in bundled_recipes() if n.endswith(("-voc", "-coco")) and n[0] in "caism"]


def step(recipe: str, stage: str, batch: int | None) -> dict[str, Cell]:
    """One row: what one step of a recipe's stage takes on this machine."""
    torch.manual_seed(0)
    options = resolve_run(Path(recipe), [], epochs=None, seed=0)
    section: TrainOptions = getattr(options, stage)
    count = min(section.batch_size, batch) if batch else section.batch_size
    with tempfile.TemporaryDirectory() as folder:
        classes = CLASSES[recipe.rpartition("-")[2]]
        write_scenes(folder, count + 2, size=SIZE, num_classes=classes, seed=0)
        items = TagFolder(folder, tags="masks")
        model, work = WORK[stage](options, items, count)
        device = pick_device()
        model.to(device).train()
        freeze(model, section.freeze)
        seconds, value = timed(model, section, work, device)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "recipe": recipe,
        "stage": stage,
        "backbone": options.segmenter.encoder if stage == "segmenter" else options.train.backbone,
        "crop": section.crop,
        "batch, published": section.batch_size,
        "batch, here": count,
        "weights that learn, million": round(learns / 1e6, 1),
        "precision": resolve_precision(section.precision, device),
        "loss": round(value, 3),
        "step, s": round(seconds, 1),
        "peak memory, GiB": round(memory, 1),
        "peak GPU memory, GiB": None if gpu is None else round(gpu, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU, 1 thread",
    }


def train_work(options: Any, items: TagFolder, count: int) -> tuple[nn.Module, Any]:
    """A classifier with random weights, and its loss on a batch of crops."""
    train: TagOptions = options.train
    model = build_classifier(
        train.backbone,
        num_classes=items.num_tags,
        output_stride=train.output_stride,
        weights="none",
        method=train.method,
    )
    crops = TagCrops(TaggedItems(items), train)
    batch = collate([crops[i] for i in range(count)], ignore_index=255)

    def work(device: torch.device) -> torch.Tensor:
        images, tags, target = (batch[k].to(device) for k in ("image", "tags", "target"))
        return method_loss(model, Step(images, tags, target != 255, train, 0, done=1.0))

    return model, work


def affinity_work(options: Any, items: TagFolder, count: int) -> tuple[nn.Module, Any]:
    """An affinity network with random weights, and its loss; true masks stand in for labels."""
    settings, train = options.affinity, options.train
    radius = settings.radius or (10 if settings.method == "irn" else 5)
    spec = AffinitySpec(settings.method, train.backbone, train.output_stride, radius)
    model = build_affinity(spec)
    crops = CropSet(items, crop=settings.crop, augment=True, ignore_index=255, seed=0)
    batch = collate([crops[i] for i in range(count)], ignore_index=255)

    def work(device: torch.device) -> torch.Tensor:
        images, target = batch["image"].to(device), batch["target"]
        size = [-(-side // model.map_stride) for side in target.shape[1:]]
        return model.loss(images, small_labels(target, size).to(device))

    return model, work


def segmenter_work(options: Any, items: TagFolder, count: int) -> tuple[nn.Module, Any]:
    """A segmenter with random weights, and its loss; true masks stand in for pseudo-masks."""
    settings = options.segmenter
    spec = settings.spec(items.num_classes, items.background)
    model = build_rectified(spec, weights="none")
    task = RectifyTask(model, settings, tags=torch.stack([items.tags(i) for i in range(count)]))
    crops = RectifyCrops(items, settings)
    batch = collate([crops[i] for i in range(count)], ignore_index=255)

    def work(device: torch.device) -> torch.Tensor:
        task.to(device)
        return task.training_step(
            {k: v.to(device) for k, v in batch.items() if isinstance(v, torch.Tensor)}, 0
        )

    return model, work


WORK = {"train": train_work, "affinity": affinity_work, "segmenter": segmenter_work}


def timed(
    model: nn.Module, options: TrainOptions, work: Any, device: torch.device
) -> tuple[float, float]:
    """Seconds and loss of the last of `STEPS` optimiser steps."""
    from segmend.engine.task import parameter_groups

    groups = parameter_groups(model, options)
    optimizer: torch.optim.Optimizer
    if options.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, lr=options.lr)
    for group in optimizer.param_groups:
        group["lr"] *= 0.01  # random weights would not survive a first step of the full rate
    mixed = resolve_precision(options.precision, device) == "bf16-mixed"
    model.to(memory_format=torch.channels_last)
    seconds = value = 0.0
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = work(device)
        loss.backward()
        optimizer.step()
        value = float(loss.detach())
        seconds = time.perf_counter() - start
    if value != value:
        raise ValueError("the loss is NaN")
    return seconds, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dry_run.json"))
    parser.add_argument("--recipes", nargs="+", default=None)
    parser.add_argument("--batch", type=int, default=None, help="CPU: 1; GPU: the recipe's.")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "STAGE"), help="Print one row.")
    options = parser.parse_args()
    device = pick_device()
    batch = options.batch or (None if device.type == "cuda" else 1)
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(step(*options.one, batch)))
        return
    kept = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {(row["recipe"], row["stage"], row["device"]): row for row in kept}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, 1 thread"
    for recipe in options.recipes or recipes():
        for stage in stages_of(recipe):
            if (recipe, stage, name) not in rows:
                rows[recipe, stage, name] = one(recipe, stage, batch)
                save(options.out, list(rows.values()))


def stages_of(recipe: str) -> list[str]:
    """What a recipe trains; of one that goes on from another's masks, the segmenter alone."""
    options = resolve_run(Path(recipe), [])
    if options.segmenter is not None:
        return ["segmenter"]
    return ["train"] if options.affinity is None else ["train", "affinity"]


def one(recipe: str, stage: str, batch: int | None) -> dict[str, Cell]:
    words = [sys.executable, __file__, "--one", recipe, stage]
    words += ["--batch", str(batch)] if batch else []
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Cell] = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def save(out: Path, rows: list[dict[str, Cell]]) -> None:
    notes = [
        "Procedural images of 500x375 in the VOC layout, random weights, the recipe's crops, "
        "losses, optimiser and precision (bfloat16 where it is in hardware); the second of two "
        "steps is timed. Peak memory is the process's, PyTorch and all. On a CPU the batch is "
        "smaller than published: activations grow with it, weights do not.",
    ]
    command = "python benchmarks/dry_run.py"
    write_outcome(out, name="dry_run", command=command, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
