"""The data sets of `context_gain.py`, each as three lists of items at the scale it is worked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from segmend.data.crowded_scenes import make_crowded_scenes
from segmend.data.decathlon import read_decathlon
from segmend.data.folders import SegmentationFolder
from segmend.data.volumes import VolumeSet

Item = dict[str, Any]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Set:
    """A data set: how it is read, and the settings that all methods share on it."""

    read: Callable[[Path], dict[str, list[Item]]]
    what: str
    settings: dict[str, Any] = field(default_factory=dict)


def hippocampus(data: Path) -> dict[str, list[Item]]:
    """Anterior hippocampus in MRI; by sorted name 160 train, 50 val, 50 test."""
    cases = read_decathlon(data / "msd-hippocampus").training
    items = VolumeSet(cases, num_classes=3, target=[1])
    bounds = {"train": (0, 160), "val": (160, 210), "test": (210, 260)}
    return {split: [items[i] for i in range(*b)] for split, b in bounds.items()}


def kvasir(data: Path, train: int = 400) -> dict[str, list[Item]]:
    """Polyps at 96 × 96; the first of `train`."""
    sets = {}
    for split, limit in {"train": train, "val": 100, "test": 100}.items():
        folder = data / "kvasir-seg" / split
        items = SegmentationFolder(folder / "images", folder / "masks")
        sets[split] = [shrunk(items[i], 96) for i in range(min(limit, len(items)))]
    return sets


def nuclei(data: Path) -> dict[str, list[Item]]:
    """Nuclei at native size, the middle 128 × 128 of larger images."""
    sets = {}
    for split in SPLITS:
        folder = data / "bbbc038-nuclei" / split
        items = SegmentationFolder(folder / "images", folder / "masks")
        sets[split] = [middle(items[i], 128) for i in range(len(items))]
    return sets


def crowded(*size: int, counts: tuple[int, int, int]) -> dict[str, list[Item]]:
    """Procedural scans with look-alikes; the test set was drawn when all else had been chosen.

    Their structures are there as context labels made by hand.
    """
    sets: dict[str, list[Item]] = {}
    for split, count, seed in zip(SPLITS, counts, (0, 1, 2026), strict=True):
        scenes = make_crowded_scenes(count, size=size, seed=seed)
        sets[split] = [
            {
                "name": f"{split}_{i:03d}",
                "image": scene.image.expand(3, -1, -1) if len(size) == 2 else scene.image * 4 - 2,
                "target": scene.target,
                "context": scene.structures,
            }
            for i, scene in enumerate(scenes)
        ]
    return sets


def shrunk(item: Item, side: int) -> Item:
    """Image and mask at side × side by area averaging; masks cut at one half."""
    image = F.interpolate(item["image"][None], (side, side), mode="area")[0]
    mask = F.interpolate(item["target"][None, None].float(), (side, side), mode="area")[0, 0]
    return {"name": item["name"], "image": image, "target": (mask > 0.5).long()}


def middle(item: Item, side: int) -> Item:
    """The middle of an image, at most side × side."""

    def cut(x: Tensor) -> Tensor:
        for axis in (-2, -1):
            start = max(0, (x.shape[axis] - side) // 2)
            x = x.narrow(axis, start, min(side, x.shape[axis]))
        return x.clone()

    return {"name": item["name"], "image": cut(item["image"]), "target": cut(item["target"])}


FLAT = {
    "crop": 96,
    "batch_size": 8,
    "widths": (16, 32, 64, 96),
    "lr": 1e-2,
    "channels_last": True,
}
PRETRAINED = {
    "network": "fpn",
    "encoder": "squeezenet1_0",
    "weights": "bundled",
    "crop": 96,
    "batch_size": 8,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "schedule": "onecycle",
    "channels_last": True,
}
"""As `segmend train` does without contexts."""
DEEP = {"batch_size": 2, "widths": (8, 16, 32, 48), "lr": 1e-2}

SETS = {
    "hippocampus": Set(
        hippocampus,
        "MSD hippocampus, anterior part against all else, 3D",
        {**DEEP, "patch": (32, 48, 32), "epochs": 12, "crops_per_epoch": 100, "ring": 4.0},
    ),
    "crowded2d": Set(
        lambda _: crowded(96, 96, counts=(150, 50, 1000)),
        "crowded scans, 96 × 96",
        {**FLAT, "epochs": 55, "ring": 6.0},
    ),
    "kvasir": Set(kvasir, "Kvasir-SEG polyps at 96 × 96, 400 train", {**FLAT, "epochs": 20}),
    "kvasirfpn": Set(
        lambda data: kvasir(data, 800),
        "Kvasir-SEG polyps at 96 × 96, 800 train, FPN from ImageNet weights",
        {**PRETRAINED, "epochs": 15},
    ),
    "nuclei": Set(
        nuclei, "BBBC038 nuclei, middle 128 × 128", {**FLAT, "crop": 64, "epochs": 20, "ring": 4.0}
    ),
    "crowded3d": Set(
        lambda _: crowded(40, 40, 40, counts=(60, 20, 100)),
        "crowded scans, 40 × 40 × 40",
        {**DEEP, "patch": (32, 32, 32), "epochs": 20, "crops_per_epoch": 60, "ring": 4.0},
    ),
}
