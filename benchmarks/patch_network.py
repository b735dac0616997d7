"""Claim: PatchRefineNet on 512x512 is faster than decoding patch by patch, as published.

    python benchmarks/patch_network.py [--repeats 5] [--out FILE.json]

Per grid and thread count, the whole forward pass in eval mode three ways: ours, with patches
decoded in batches (on a CPU as many as its caches hold) and norms merged into their convolutions;
the same one patch after another; and as the original does, one patch after another with norms of
their own. All are the same network with the same weights on the same map; their outputs are checked
equal first, and their runs alternate, so that other work on the machine meets all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.refine.blocks import ConvNorm
from segmend.refine.network import PatchRefineNet, Variant

SIDE = 512
VARIANTS: tuple[Variant, ...] = ("P4", "P64")
THREADS = (1, 2)
TOLERANCE = 1e-4


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each work in each round, after one round to warm up."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def apart(self: ConvNorm, features: Tensor) -> Tensor:
    """Convolution, then norm: what `ConvNorm` merges in eval mode."""
    normed: Tensor = self.norm(self.conv(features))
    return normed


def forward(
    network: PatchRefineNet, maps: Tensor, *, fold: bool, merge: bool
) -> Callable[[], Tensor]:
    def run() -> Tensor:
        network.fold_patches = fold
        with nullcontext() if merge else patch.object(ConvNorm, "forward", apart):
            local = network(maps).local
        assert local is not None
        return local

    return run


def measure(variant: Variant, threads: int, repeats: int) -> dict[str, Cell]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = PatchRefineNet(variant).eval()
    maps = torch.rand(1, 1, SIDE, SIDE)
    ways = [
        forward(network, maps, fold=fold, merge=merge)
        for fold, merge in ((True, True), (False, True), (False, False))
    ]
    ours, *others = (way() for way in ways)
    difference = max(float((ours - other).abs().max()) for other in others)
    if not difference <= TOLERANCE:
        raise SystemExit(f"{variant}: outputs differ by {difference:.2g}")
    ours_s, single_s, published_s = alternate(ways, repeats)
    return {
        "grid": f"{variant} ({network.grid}x{network.grid})",
        "threads": threads,
        "ours, s": round(min(ours_s), 3),
        "patch by patch, s": round(min(single_s), 3),
        "as published, s": round(min(published_s), 3),
        "patch by patch / ours": round(min(single_s) / min(ours_s), 2),
        "as published / ours": round(min(published_s) / min(ours_s), 2),
        "median of rounds": round(middle_ratio(published_s, ours_s), 2),
        "largest difference": f"{difference:.1e}",
    }


def middle_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds, of which the fastest counts"
    )
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    rows = []
    with torch.inference_mode():
        for variant in VARIANTS:
            for threads in THREADS:
                rows.append(measure(variant, threads, options.repeats))
                print(", ".join(f"{k}: {v}" for k, v in rows[-1].items()), flush=True)
    if options.out:
        write_outcome(
            options.out,
            name="patch_network",
            command=f"python benchmarks/patch_network.py --repeats {options.repeats}",
            rows=rows,
            notes=[
                f"One {SIDE}x{SIDE} map, eval mode. ours: patches in batches, norms merged into "
                "convolutions; patch by patch: merged; as published: patch by patch, norms apart.",
                f"Minimum of {options.repeats} alternating runs; outputs equal to {TOLERANCE:g}.",
            ],
        )
    slower = [row["grid"] for row in rows if float(str(row["as published / ours"])) <= 1]
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
