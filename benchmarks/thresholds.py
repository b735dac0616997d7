"""Claims about patch thresholds: exact ones cost less than a sort in torch, and lose nothing.

    python benchmarks/thresholds.py [--images 4] [--repeats 5] [--threads 1] [--out FILE.json]

Every row is measured in this run, on the same maps, with the results checked first:
the exact thresholds against the published search (20 thresholds, patch by patch, in NumPy) and
against one `torch.sort` of the same data; quantised maps by histogram against the same search.
The original loop binarises as the original does (0, then 1 written into a float copy), the lean
loop is the same search with a bare comparison, the fastest that we could make of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.refine.grid import grid_thresholds
from segmend.refine.histogram import worth_counting
from segmend.refine.patch_grid import patch_grid
from segmend.refine.patch_masks import apply_thresholds, patch_iou
from segmend.refine.thresholds import best_thresholds
from timing import fastest, finish

SIDE = 512
PATCH_SIDES = (64, 128, 256, 512)
NOTES = (
    "Times are for all images of 512x512 px together, the fastest of several runs taken in turn, "
    "torch and NumPy on one thread unless the command says otherwise.",
    "original loop: 20 thresholds, patch by patch in NumPy, each mask written as 0, then 1, into a "
    "float copy, as the original does; lean loop: the same search with one bare comparison.",
    "16-bit maps are counted only where a level has at least two pixels of a patch, else sorted.",
)


def biased_maps(images: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities (N, 512, 512) whose logits carry a smooth bias and noise; target blobs."""
    generator = torch.Generator().manual_seed(seed)

    def smooth(cells: int) -> Tensor:
        coarse = torch.randn(images, 1, cells, cells, generator=generator)
        return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").squeeze(1)

    shape = smooth(8)
    target = (shape > 0.5).to(torch.int64)
    noise = torch.randn(images, SIDE, SIDE, generator=generator)
    return torch.sigmoid(4 * (shape - 0.5) + 2 * smooth(4) + noise), target


def search(
    probs: np.ndarray,
    target: np.ndarray,
    side: int,
    binarise: Callable[[np.ndarray, float], np.ndarray],
) -> np.ndarray:
    """The published search, from its description: loops over patches and 20 thresholds."""
    rows, cols = probs.shape[1] // side, probs.shape[2] // side
    best = np.zeros((len(probs), rows, cols), dtype=np.float32)
    for n in range(len(probs)):
        for r in range(rows):
            for c in range(cols):
                window = (n, slice(r * side, (r + 1) * side), slice(c * side, (c + 1) * side))
                scores, truth = probs[window], target[window]
                best_iou = -1.0
                for t in range(1, 21):
                    mask = binarise(scores, 0.05 * t)
                    hits = np.sum(truth * mask)
                    iou = (hits + 1) / (np.sum(truth) + np.sum(mask) - hits + 1)
                    if iou > best_iou:
                        best_iou, best[n, r, c] = iou, 0.05 * t
    return best


def write_in_place(scores: np.ndarray, threshold: float) -> np.ndarray:
    """As the original binarises: a float copy in which first 0, then 1 is written."""
    mask = scores.copy()
    mask[mask <= threshold] = 0
    mask[mask > threshold] = 1
    return mask


def compare(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The leanest way: one comparison, one byte a pixel."""
    return scores > threshold


def measure(kind: str, side: int, images: int, repeats: int) -> dict[str, Cell]:
    """One row: times in ms for all images together, ratios, and the share of patches not worse."""
    probs, target = biased_maps(images)
    top = 1
    if kind != "float32":
        top, dtype = {"uint8": (255, torch.uint8), "uint16": (65535, torch.uint16)}[kind]
        maps = (probs * top).round().to(torch.int32).to(dtype)
        probs = maps.to(torch.float32) / top
    else:
        maps = probs

    loop_probs, loop_target = probs.numpy(), target.numpy().astype(np.uint8)

    def original() -> np.ndarray:
        return search(loop_probs, loop_target, side, write_in_place)

    def lean() -> np.ndarray:
        return search(loop_probs, loop_target, side, compare)

    share, gain = check(maps, probs, target, side, (original(), lean()))
    grid = patch_grid(SIDE, SIDE, side)
    folded = grid.fold(probs, fill=0)
    ms = fastest(
        {
            "exact": lambda: best_thresholds(maps, target, patch_size=side),
            "sort": lambda: torch.sort(folded, dim=1),
            "loop": original,
            "lean": lean,
        },
        repeats,
    )
    counted = kind != "float32" and worth_counting(top + 1, grid)
    return {
        "map": kind,
        "patch": side,
        "way": "histogram" if counted else "sort",
        "exact, ms": round(ms["exact"], 2),
        "exact / torch.sort": round(ms["exact"] / ms["sort"], 3),
        "original loop / exact": round(ms["loop"] / ms["exact"], 2),
        "lean loop / exact": round(ms["lean"] / ms["exact"], 2),
        "share with IoU >= grid": share,
        "mean IoU gain": round(gain, 4),
    }


def missed(row: dict[str, Cell]) -> list[str]:
    """Which goals a row misses."""
    least = 10.0 if row["way"] == "histogram" else 1.0
    goals = {
        "exact / torch.sort <= 2": float(row["exact / torch.sort"] or 0) <= 2,
        f"original loop / exact >= {least:g}": float(row["original loop / exact"] or 0) >= least,
        "IoU >= the grid's on every patch": row["share with IoU >= grid"] == 1.0,
    }
    return [f"{row['map']}, patch {row['patch']}: {g}" for g, met in goals.items() if not met]


def check(
    maps: Tensor, probs: Tensor, target: Tensor, side: int, searched: tuple[np.ndarray, ...]
) -> tuple[float, float]:
    """Share of patches whose exact IoU is at least the search's, and the mean difference."""
    ours = grid_thresholds(probs, target, patch_size=side)
    if not all(np.array_equal(ours.numpy(), found) for found in searched):
        raise SystemExit(f"patch {side}: grid_thresholds differs from the published search")
    exact = best_thresholds(maps, target, patch_size=side)
    reached, gridded = (
        patch_iou(apply_thresholds(scores, found, patch_size=side), target, patch_size=side)
        for scores, found in ((maps, exact), (probs, ours))
    )
    difference = reached - gridded
    return float((difference >= 0).double().mean()), float(difference.mean())


def table(rows: list[dict[str, Cell]]) -> str:
    """The rows as a markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = (str(v) for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4, help="images of 512x512 px")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; the loops in NumPy always have one"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for kind in ("float32", "uint8", "uint16"):
        for side in PATCH_SIDES:
            rows.append(measure(kind, side, options.images, options.repeats))
            print(f"{kind}, patch {side}: done", file=sys.stderr)
    print(table(rows))
    command = (
        f"python benchmarks/thresholds.py --images {options.images} "
        f"--repeats {options.repeats} --threads {options.threads}"
    )
    if options.out:
        write_outcome(options.out, name="thresholds", command=command, rows=rows, notes=NOTES)
    finish([goal for row in rows for goal in missed(row)])


if __name__ == "__main__":
    main()
