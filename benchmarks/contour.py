"""Claim about boundary F: ten times faster than the published way, same counts.

    python benchmarks/contour.py [--images 12] [--repeats 15] [--data DIR] [--out FILE.json]

The published way (HFPL, after DAVIS 2017) is written here from its description: for each image and
each of the 20 foreground classes, a boundary map by three shifts in NumPy, a dilation by a disk in
OpenCV, four sums. Void is background. "present classes only" is the same for the classes that the
image or its prediction has, the leanest way that we could make of it. All on one thread. Labels are
procedural (a few random blobs a class), or the real ones of a VOC layout given with --data.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.morphology import disk

from outcome import Cell, write_outcome
from segmend.metrics import boundary_counts, boundary_f, class_mean
from thresholds import table
from timing import fastest, finish

NUM_CLASSES = 21
SIZES = ((375, 500), (213, 320))
GOAL = 10.0
NOTES = (
    "Milliseconds of processor time an image, the fastest of several runs taken in turn, one "
    "thread; 21 classes, tolerance 0.008 of the diagonal; the counts of all images and classes are "
    "equal, which is checked before timing. F is of a spoilt copy of the labels.",
    "published way: 20 foreground classes, present or not; boundary by shifts (NumPy), dilation by "
    "a disk (OpenCV). present only: the same without the classes that the image has not.",
)


def scenes(images: int, size: tuple[int, int], *, seed: int = 0) -> list[np.ndarray]:
    """Label maps of two to five classes in blobs, with a ring of void round them as in VOC."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(images):
        labels = np.zeros(size, dtype=np.uint8)
        for label in rng.choice(np.arange(1, NUM_CLASSES), rng.integers(1, 5), replace=False):
            labels[
                gaussian_filter(rng.standard_normal(size), min(size) / 10, mode="wrap") > 0.01
            ] = label
        edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        labels[edge] = 255
        maps.append(labels)
    return maps


def real(folder: Path, images: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Masks of a folder, evenly spread, laid into `size` (turned where they stand upright)."""
    maps, paths = [], sorted(folder.glob("*.png"))
    for path in paths[:: max(len(paths) // images, 1)][:images]:
        mask = Image.open(path)
        upright = mask.height > mask.width
        maps.append(
            np.array(mask.resize(size if upright else size[::-1], Image.Resampling.NEAREST))
        )
    return maps


def spoil(labels: np.ndarray) -> np.ndarray:
    """A prediction: everything eight pixels to the right, void filled, a box of another class."""
    moved = np.roll(labels, 8, axis=1)
    moved[moved == 255] = 0
    height, width = (side // 4 for side in moved.shape)
    moved[height : 2 * height, width : 2 * width] = 20
    return moved


def outline(mask: np.ndarray) -> np.ndarray:
    """Where a mask differs from its right, lower or lower-right neighbour, by shifted copies."""
    mask = mask.astype(bool)
    mask[mask > 0] = 1  # the published way makes sure of it
    right, below, corner = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ corner)
    edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def published(prediction: np.ndarray, target: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Counts (21, 4) of one image, class by class, with everything done again for each."""
    target = np.where(target == 255, 0, target)
    counts = np.zeros((NUM_CLASSES, 4), dtype=np.int64)
    for label in classes:
        counts[label] = class_counts(one_class(prediction, label), one_class(target, label))
    return counts


def one_class(labels: np.ndarray, label: int) -> np.ndarray:
    """A map of one class, as the published way makes it: zeros, then the label written in."""
    alone = np.zeros_like(labels)
    alone[labels == label] = label
    return alone


def class_counts(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, int, int]:
    """The four counts of one class; a mask of void, here empty, is always taken out."""
    kept = np.logical_not(np.zeros_like(ours).astype(bool))
    ours, theirs = (outline(mask * kept) for mask in (ours, theirs))
    shape = disk(int(np.ceil(0.008 * np.linalg.norm(ours.shape)))).astype(np.uint8)
    near_ours, near_theirs = (cv2.dilate(x.astype(np.uint8), shape) for x in (ours, theirs))
    matched, found = np.sum(ours * near_theirs), np.sum(theirs * near_ours)
    return matched, np.sum(ours), found, np.sum(theirs)


def measure(kind: str, maps: list[np.ndarray], repeats: int) -> dict[str, Cell]:
    """One row: milliseconds an image three ways, and the two ratios."""
    pairs = [(spoil(labels), labels) for labels in maps]
    tensors = [tuple(torch.from_numpy(x.astype(np.int64))[None] for x in pair) for pair in pairs]
    present = [sorted({*np.unique(np.stack(pair))} - {0, 255}) for pair in pairs]

    def ours() -> torch.Tensor:
        return torch.cat(
            [boundary_counts(*p, num_classes=NUM_CLASSES, void="background") for p in tensors]
        )

    def all_classes() -> np.ndarray:
        return np.stack([published(*pair, range(1, NUM_CLASSES)) for pair in pairs])

    def present_only() -> np.ndarray:
        return np.stack([published(*p, c) for p, c in zip(pairs, present, strict=True)])

    found, wanted = ours(), torch.from_numpy(all_classes())
    if not torch.equal(found[:, 1:], wanted[:, 1:]):
        raise SystemExit(f"{kind}: the counts differ from the published way's")
    ms = fastest(
        {"ours": ours, "published": all_classes, "present": present_only},
        repeats,
        clock=time.thread_time,
    )
    height, width = maps[0].shape
    return {
        "labels": kind,
        "size": f"{max(height, width)}x{min(height, width)}",
        "classes an image": round(float(np.mean([len(c) for c in present])), 1),
        "published, ms": round(ms["published"] / len(maps), 2),
        "present only, ms": round(ms["present"] / len(maps), 2),
        "ours, ms": round(ms["ours"] / len(maps), 2),
        "published / ours": round(ms["published"] / ms["ours"], 1),
        "present only / ours": round(ms["present"] / ms["ours"], 1),
        "F, %": round(100 * float(class_mean(boundary_f(found.sum(0)), background=0).mean), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=12, help="images of each size")
    parser.add_argument("--repeats", type=int, default=15, help="runs, of which the fastest counts")
    parser.add_argument("--data", type=Path, help="data set in the VOC layout, for a real row each")
    parser.add_argument("--labels", default="SegmentationAll", help="its folder of masks")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for size in SIZES:
        rows.append(measure("procedural", scenes(options.images, size), options.repeats))
        if options.data:
            maps = real(options.data / options.labels, options.images, size)
            rows.append(measure(options.data.name, maps, options.repeats))
    print(table(rows))
    command = f"python benchmarks/contour.py --images {options.images} --repeats {options.repeats}"
    command += f" --data {options.data.name} --labels {options.labels}" if options.data else ""
    if options.out:
        write_outcome(options.out, name="contour", command=command, rows=rows, notes=NOTES)
    slow = [row for row in rows if float(row["published / ours"] or 0) < GOAL]
    finish([f"{row['labels']}, {row['size']}: 10 times faster" for row in slow])


if __name__ == "__main__":
    main()
