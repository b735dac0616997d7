"""Claim about random walks: at least 5 times faster than the published dense power, equal result.

    python benchmarks/random_walk.py [--side 64] [--repeats 5] [--threads 1] [--out FILE.json]

Every row is measured in this run, on the same affinities and scores, with the results checked
first against a walk step by step in double precision. What it is measured against:

dense power       the published way: square the matrix logt times, then multiply the scores by it
dense steps       the matrix times the scores, step by step
banded            the same, but only the block of each image row with the rows that it can reach
slices            step by step, shifted slices of the scores times one weight map per neighbour
sparse steps      step by step, one product with the sparse matrix
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.tags.affinity import half_plane_offsets, overlap, pairwise_affinity, shifted
from segmend.tags.random_walk import random_walk, transition
from timing import fastest, finish

RADIUS, BETA = 5, 8.0
CLASSES = 21
NOTES = (
    "Milliseconds for one image, the fastest of several runs taken in turn (dense power: of one); "
    "torch on one thread unless the command says otherwise.",
    "walk: `random_walk` with its defaults, building the sparse matrix from affinities included; "
    "the others get their matrix or weights for nothing, in float32.",
    "scored: how many of the 21 channels hold any score; an image has few tags. The walk leaves "
    "the others out, here all ways are given the scored ones alone.",
    "difference: the largest from a walk step by step in double precision; scores are in [0, 1].",
)


def example(side: int, scored: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """(scores (1, K, side, side), affinity (1, D, side, side), offsets) of smooth features."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.randn(1, channels, cells, cells, generator=generator)
        return F.interpolate(coarse, size=(side, side), mode="bicubic")

    offsets = half_plane_offsets(RADIUS)
    affinity = pairwise_affinity(smooth(32, side // 4), offsets)
    scores = torch.zeros(1, CLASSES, side, side)
    scores[:, :scored] = smooth(scored, 8).sigmoid()
    return scores, affinity, offsets


def dense_power(matrix: Tensor, scores: Tensor, steps: int) -> Tensor:
    """Scores (K, pixels) times the power of the dense matrix, by squaring; `steps` is 2^n."""
    while steps > 1:
        matrix, steps = matrix @ matrix, steps // 2
    return scores @ matrix


def step_by_step(matrix: Tensor, scores: Tensor, steps: int) -> Tensor:
    """Scores (K, pixels) times a matrix, whose rows are pixels that take, `steps` times."""
    columns = scores.T.contiguous()
    for _ in range(steps):
        columns = matrix @ columns
    return columns.T


def banded(bands: Tensor, scores: Tensor, steps: int) -> Tensor:
    """The same with bands (side, side, (2 * RADIUS - 1) * side): one block per image row."""
    side, _, reach = bands.shape
    columns, pad = scores.T.contiguous(), (RADIUS - 1) * side
    for _ in range(steps):
        padded = F.pad(columns, (0, 0, pad, pad))
        classes = padded.shape[1]
        windows = padded.as_strided((side, reach, classes), (side * classes, classes, 1))
        columns = torch.bmm(bands, windows).flatten(0, 1)
    return columns.T


def slices(weights: dict[tuple[int, int], Tensor], scores: Tensor, steps: int) -> Tensor:
    """The same with one weight map (side, side) per neighbour."""
    side = next(iter(weights.values())).shape[0]
    maps, pad = scores.reshape(-1, side, side), RADIUS - 1
    for _ in range(steps):
        padded, total = F.pad(maps, (pad,) * 4), torch.zeros_like(maps)
        for (dy, dx), weight in weights.items():
            rows, cols = slice(pad + dy, pad + dy + side), slice(pad + dx, pad + dx + side)
            total.addcmul_(weight, padded[:, rows, cols])
        maps = total
    return maps.flatten(1)


def bands_of(matrix: Tensor, side: int) -> Tensor:
    """The dense matrix's blocks that `banded` needs."""
    reach = (RADIUS - 1) * side
    padded = F.pad(matrix, (reach, reach))
    rows = [slice(y * side, (y + 1) * side) for y in range(side)]
    return torch.stack([padded[r, r.start : r.stop + 2 * reach] for r in rows])


def weights_of(affinity: Tensor, offsets: list[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
    """The weight of each neighbour, (side, side), normalised over neighbours."""
    side = affinity.shape[-1]
    weights = {(0, 0): torch.ones(side, side)}
    for alike, (dy, dx) in zip(affinity[0] ** BETA, offsets, strict=True):
        sources = overlap((dy, dx), side, side)
        weights[dy, dx], weights[-dy, -dx] = alike, torch.zeros(side, side)
        weights[-dy, -dx][shifted(*sources, (dy, dx))] = alike[sources]
    total = torch.stack(list(weights.values())).sum(0)
    return {offset: weight / total for offset, weight in weights.items()}


def measure(side: int, scored: int, steps: int, repeats: int) -> dict[str, Cell]:
    """One row: times in ms, the ratio that is claimed, and the largest difference of each."""
    scores, affinity, offsets = example(side, scored)
    flat = scores[0, :scored].flatten(1)
    sparse = transition(affinity, offsets, beta=BETA)
    dense = sparse.to_dense()
    exact = step_by_step(transition(affinity.double(), offsets, beta=BETA), flat.double(), steps)
    walk = partial(random_walk, scores, affinity, offsets, beta=BETA, steps=steps)
    works: dict[str, Callable[[], Tensor]] = {
        "sparse steps": partial(step_by_step, sparse, flat, steps),
        "slices": partial(slices, weights_of(affinity, offsets), flat, steps),
        "banded": partial(banded, bands_of(dense, side), flat, steps),
    }
    slow = {
        "dense steps": partial(step_by_step, dense, flat, steps),
        "dense power": partial(dense_power, dense.T.contiguous(), flat, steps),
    }
    for name, work in works.items():
        if difference(work(), exact) > 1e-4:
            raise SystemExit(f"{name}: not the same walk")
    ms = fastest({"walk": walk, **works}, repeats)
    row: dict[str, Cell] = {"steps": steps, "scored": scored, "walk": round(ms["walk"], 1)}
    row |= {name: round(ms[name], 1) for name in works}
    found = {}
    for name, work in slow.items():
        start = time.perf_counter()
        found[name] = work()
        ms[name] = 1e3 * (time.perf_counter() - start)
        row[name] = round(ms[name])
    row["dense power / walk"] = round(ms["dense power"] / ms["walk"], 1)
    row["sparse steps / walk"] = round(ms["sparse steps"] / ms["walk"], 1)
    row["difference, walk"] = difference(walk()[0, :scored].flatten(1), exact)
    row["difference, dense power"] = difference(found["dense power"], exact)
    return row


def difference(found: Tensor, exact: Tensor) -> float:
    """The largest, to two digits."""
    return float(f"{(found.double() - exact).abs().max().item():.1e}")


def missed(row: dict[str, Cell]) -> list[str]:
    """Which goals a row misses."""
    goals = {
        "dense power / walk >= 5": float(row["dense power / walk"] or 0) >= 5,
        "difference <= 1e-5": float(row["difference, walk"] or 0) <= 1e-5,
    }
    return [
        f"{row['steps']} steps, {row['scored']} scored: {g}" for g, met in goals.items() if not met
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--side", type=int, default=64, help="of the map, a multiple of 4")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for steps in (64, 256):
        for scored in (3, CLASSES):
            rows.append(measure(options.side, scored, steps, options.repeats))
            print(rows[-1], file=sys.stderr)
    command = (
        f"python benchmarks/random_walk.py --side {options.side} --repeats {options.repeats} "
        f"--threads {options.threads}"
    )
    if options.out:
        write_outcome(options.out, name="random_walk", command=command, rows=rows, notes=NOTES)
    finish([goal for row in rows for goal in missed(row)])


if __name__ == "__main__":
    main()
