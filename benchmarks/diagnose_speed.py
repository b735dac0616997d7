"""Claim: a diagnosis takes at most 3 times as long as reading the files and computing IoU."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from outcome import Cell, write_outcome
from segmend.data.probability_maps import write_probabilities
from segmend.diagnose import FolderCases, measure
from segmend.metrics import class_score, iou, region_counts
from timing import fastest

LIMIT = 3.0
SIDE = 512


def write_set(folder: Path, count: int, num_classes: int) -> None:
    """Smooth objects, a model that sees them blurred and with noise of its own, grainy images."""
    for name in ("masks", "probs", "pred", "images"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        generator = np.random.default_rng(index)
        fields = _fields(generator, num_classes, 16.0)
        truth = _labels(fields)
        seen = 0.7 * fields + 0.3 * _fields(generator, num_classes, 6.0)
        seen += 0.02 * generator.normal(size=seen.shape)
        probs = torch.softmax(torch.from_numpy(6.0 * seen).float(), 0)
        image = (60 * fields[0] + 20 * generator.normal(size=truth.shape) + 120).clip(0, 255)
        Image.fromarray(truth).save(folder / "masks" / f"{index}.png")
        Image.fromarray(probs.argmax(0).byte().numpy()).save(folder / "pred" / f"{index}.png")
        grey = np.repeat(image[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{index}.png")
        if num_classes == 2:
            write_probabilities(folder / "probs" / f"{index}.png", probs[1:])
        else:
            write_probabilities(folder / "probs" / f"{index}.npz", probs.half())


def _fields(generator: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    """One standardised smooth field a class; the background's is raised."""
    raw = generator.normal(size=(count, SIDE, SIDE))
    fields = np.stack([ndimage.gaussian_filter(field, sigma) for field in raw])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    fields[0] += 1.0
    return fields


def _labels(fields: np.ndarray) -> np.ndarray:
    return fields.argmax(0).astype(np.uint8)


def plain(cases: FolderCases, num_classes: int) -> float:
    """Read everything and compute IoU, as `segmend evaluate` does."""
    rows = torch.zeros(len(cases), num_classes, 3, dtype=torch.int64)
    for index, case in enumerate(cases):
        target = case.target.masked_fill(~case.valid, 255)[None]
        rows[index] = region_counts(case.prediction[None], target, num_classes=num_classes)[0]
    return float(class_score(iou(rows.sum(0))))


def compared(
    num_classes: int, roles: tuple[str, ...], count: int, repeats: int
) -> tuple[float, float]:
    """Processor seconds of reading and IoU, and of a diagnosis: of each the fewest."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        write_set(folder, count, num_classes)
        folders = {role: folder / role for role in roles}
        cases = FolderCases(folder / "masks", num_classes=num_classes, **folders)
        works = {"base": partial(plain, cases, num_classes), "ours": partial(measure, cases)}
        times = fastest(works, repeats, clock=time.thread_time)
    return times["base"] / 1e3, times["ours"] / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/diagnose_speed.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Cell]] = []
    kinds = {
        "16-bit maps": (2, ("probs",)),
        "16-bit maps and images": (2, ("probs", "images")),
        "hard masks": (2, ("pred",)),
        "5 classes, .npz maps": (5, ("probs",)),
    }
    for kind, (num_classes, roles) in kinds.items():
        count = arguments.images if num_classes == 2 else max(1, arguments.images // 4)
        base, ours = compared(num_classes, roles, count, arguments.repeats)
        rows.append(
            {
                "input": kind,
                "images": count,
                "read and IoU, ms an image": round(1e3 * base / count, 1),
                "diagnose, ms an image": round(1e3 * ours / count, 1),
                "ratio": round(ours / base, 2),
            }
        )
        print(rows[-1], flush=True)
    worst = max(float(str(row["ratio"])) for row in rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    notes = [
        f"Largest ratio: {worst} (goal: at most {LIMIT}).",
        f"{SIDE} x {SIDE} pixels, one thread and its processor time, every fix, 1000 bootstrap "
        "samples; the files are in the cache of the operating system. Peak memory of the whole "
        f"run: {peak:.0f} MB.",
    ]
    command = f"python benchmarks/diagnose_speed.py --images {arguments.images}"
    write_outcome(arguments.out, name="diagnose_speed", command=command, rows=rows, notes=notes)
    print("\n".join(notes))
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
