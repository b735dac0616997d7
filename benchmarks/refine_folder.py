"""Claim: refining a folder is limited by the network, at least 85% of wall time in its forward."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from outcome import write_outcome
from segmend import Refiner
from segmend.data.probability_maps import write_probabilities
from segmend.refine import RefineOptions
from segmend.refine.applying import build_network
from segmend.refine.folder import refine_folder

GOAL = 0.85


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder) / "maps"
        for index in range(options.count):
            write_probabilities(maps / f"{index}.png", torch.rand(1, options.side, options.side))
        for folds in (1, 3):
            refine = RefineOptions()
            networks = [build_network(refine, channels=1, with_images=False) for _ in range(folds)]
            refiner = Refiner(networks, options=refine)
            refine_folder(refiner, maps, Path(folder) / f"warm{folds}", write="both")
            done = refine_folder(refiner, maps, Path(folder) / f"out{folds}", write="both")
            rows.append(
                {
                    "networks": folds,
                    "maps": done.refined,
                    "seconds": round(done.seconds, 2),
                    "in the network": f"{done.network_seconds / done.seconds:.1%}",
                }
            )
    share = min(float(str(row["in the network"]).rstrip("%")) / 100 for row in rows)
    notes = [
        f"{options.side} px maps, 16-bit PNG read, 16-bit PNG and mask written, one torch thread; "
        f"goal: at least {GOAL:.0%}."
    ]
    for row in rows:
        print(row)
    if options.out:
        command = "python benchmarks/refine_folder.py"
        write_outcome(options.out, name="refine_folder", command=command, rows=rows, notes=notes)
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
