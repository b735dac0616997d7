"""Claim: PatchRefineNet on 512x512 is faster with its patches folded into batches.

    python benchmarks/patch_network.py [--repeats 5] [--out FILE.json]

Per grid and thread count: the whole forward pass in eval mode, with patches decoded in batches
(on a CPU as many as its caches hold), and with one patch after another as the original does.
Both are the same network with the same weights on the same map; their outputs are checked equal
first, and their runs alternate, so that other work on the machine meets both. The local decoder
alone stands beside, since the encoder and the global decoder cost the same either way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from outcome import Cell, write_outcome
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


def by_turns(network: PatchRefineNet, maps: Tensor, *, fold: bool) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        network.fold_patches = fold
        local = network(maps).local
        assert local is not None
        return local

    return forward


def decoder_by_turns(
    network: PatchRefineNet, features: list[Tensor], *, fold: bool
) -> Callable[[], Tensor]:
    def decode() -> Tensor:
        network.fold_patches = fold
        return network.decode_patches(features)

    return decode


def measure(variant: Variant, threads: int, repeats: int) -> dict[str, Cell]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = PatchRefineNet(variant).eval()
    maps = torch.rand(1, 1, SIDE, SIDE)
    features = network.encoder(maps)
    whole = [by_turns(network, maps, fold=fold) for fold in (True, False)]
    local = [decoder_by_turns(network, features, fold=fold) for fold in (True, False)]
    folded, single = (forward() for forward in whole)
    difference = float((folded - single).abs().max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"{variant}: outputs differ by {difference:.2g}")
    folded_s, single_s, folded_local_s, single_local_s = alternate([*whole, *local], repeats)
    return {
        "grid": f"{variant} ({network.grid}x{network.grid})",
        "threads": threads,
        "folded, s": round(min(folded_s), 3),
        "patch by patch, s": round(min(single_s), 3),
        "ratio": round(min(single_s) / min(folded_s), 2),
        "median ratio of rounds": round(middle_ratio(single_s, folded_s), 2),
        "ratio, local decoder": round(min(single_local_s) / min(folded_local_s), 2),
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
                f"One {SIDE}x{SIDE} map, eval mode; ratio: patch by patch over folded.",
                f"Minimum of {options.repeats} alternating runs; outputs equal to {TOLERANCE:g}.",
            ],
        )
    slower = [row["grid"] for row in rows if float(str(row["ratio"])) <= 1]
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
