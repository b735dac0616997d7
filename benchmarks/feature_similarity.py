"""Claims about the feature-similarity loss: value and gradient of all pairs, much sooner.

    python benchmarks/feature_similarity.py [--sides 28 56 96] [--repeats 5] [--threads 1]
                                            [--out FILE.json]

Each row compares one way of `feature_similarity_loss` with two all-pairs forms on the same maps,
loss and gradient together, the results compared: "original", the equation as it stands (colour
distances, tanh and log, squared map distances as matrices of all pairs, autograd through them), and
"lean", the best that we could make of all pairs in matrices (weights without a graph, in place;
map distances from one matrix product). Peak memory is of a process of its own.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.tags.similarity import WINDOW_SIGMAS, feature_similarity_loss

CLASSES = 21
MU, SIGMA = 2.5, 5.0
THREE, FIVE = math.ceil(3 * SIGMA), math.ceil(WINDOW_SIGMAS * SIGMA)
LONG = 10.0
NOTES = (
    f"One image, {CLASSES} maps, mu 2.5, sigma 5, float32; milliseconds of processor time for "
    "value and gradient together, the fastest of several runs, one thread unless the command "
    "says otherwise.",
    "original: the equation as matrices of all pairs, with autograd; lean: weights without a "
    "graph and in place, map distances by one matrix product, the best that we could make of "
    "matrices of all pairs.",
    "Peak: growth of the resident set, each in a process of its own. Errors are relative to the "
    "original: of the loss, and the largest of the gradient over its largest entry.",
    f"auto is dense up to 32x32 cells, then a window of {FIVE} cells (5 sigma); goals, for auto: "
    "10 times as fast at 56x56, 30 times at 96x96, a tenth of the memory, errors below 1e-5.",
)


def example(side: int) -> tuple[Tensor, Tensor]:
    """Smooth maps in (0, 1) and a smooth image."""
    generator = torch.Generator().manual_seed(side)

    def smooth(channels: int) -> Tensor:
        coarse = torch.randn(1, channels, 12, 12, generator=generator)
        return F.interpolate(coarse, size=(side, side), mode="bicubic")

    return torch.sigmoid(3 * smooth(CLASSES)), torch.sigmoid(smooth(3))


def spatial_weights(side: int) -> Tensor:
    """Gaussian of the distance between all pairs of cells."""
    steps = torch.arange(side, dtype=torch.float32)
    cells = torch.cartesian_prod(steps, steps)
    return torch.exp(-(torch.cdist(cells, cells) ** 2) / (2 * SIGMA**2)) / (2 * math.pi * SIGMA**2)


def original(maps: Tensor, images: Tensor) -> Tensor:
    """The loss as the equation has it, all pairs at once."""
    colours, values = images.flatten(2).transpose(1, 2), maps.flatten(2).transpose(1, 2)
    distance = (torch.cdist(colours, colours, p=1) / 3).clamp(0, 1)
    likeness = torch.tanh(MU + torch.log((distance + 1e-5) / (1 - distance + 1e-5)))
    difference = torch.cdist(values, values) ** 2 / 2
    pairs = spatial_weights(maps.shape[-1]) * likeness * difference
    return -pairs.sum() / (len(maps) * values.shape[1])


def lean(maps: Tensor, images: Tensor) -> Tensor:
    """The same, with a graph only where a gradient flows and as few matrices as possible."""
    values, count = maps.flatten(2)[0], maps[0, 0].numel()
    with torch.no_grad():
        distance = torch.zeros(count, count)
        for channel in images.flatten(2)[0] / 3:
            distance += (channel[:, None] - channel).abs_()
        weights = torch.rsub(distance, 1 + 1e-5)
        weights = torch.div(distance.add_(1e-5), weights, out=weights).log_().add_(MU).tanh_()
        weights *= spatial_weights(maps.shape[-1])
        degree = weights.sum(1)
    return -((degree * values**2).sum() - (values * (values @ weights)).sum()) / count


Way = Callable[[Tensor, Tensor], Tensor]
OURS: dict[str, Way] = {
    "auto": feature_similarity_loss,
    "dense": partial(feature_similarity_loss, path="dense"),
    f"window of {FIVE}": partial(feature_similarity_loss, path="window", window=FIVE),
    f"window of {THREE}": partial(feature_similarity_loss, path="window", window=THREE),
}
WAYS: dict[str, Way] = {"original": original, "lean": lean, **OURS}


def value_and_gradient(way: Way, side: int) -> tuple[Tensor, Tensor]:
    maps, images = example(side)
    maps.requires_grad_()
    loss = way(maps, images)
    loss.backward()
    assert maps.grad is not None
    return loss.detach(), maps.grad


def fastest(way: Way, side: int, repeats: int) -> float:
    """Milliseconds of processor time of the fastest run, after one to warm up."""
    maps, images = example(side)
    maps.requires_grad_()
    times: list[float] = []
    while len(times) <= repeats and (sum(times) < LONG or len(times) < 2):
        maps.grad = None
        start = time.process_time()
        way(maps, images).backward()
        times.append(time.process_time() - start)
    return 1e3 * min(times[1:])


def peak(name: str, side: int) -> float | None:
    """Megabytes by which the resident set grows at most; None where the system does not say."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    words = [sys.executable, __file__, "--peak", name, "--sides", str(side)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def measure_peak(name: str, side: int) -> float:
    """The growth, in this process: libraries are loaded by a small run first."""
    value_and_gradient(WAYS[name], 8)
    maps, images = example(side)
    maps.requires_grad_()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    WAYS[name](maps, images).backward()
    return (resident("VmHWM") - before) / 1024


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(side: int, repeats: int) -> list[dict[str, Cell]]:
    """One row for each of our ways."""
    truth, gradient = value_and_gradient(original, side)
    ms = {name: fastest(way, side, repeats) for name, way in WAYS.items()}
    megabytes = {name: peak(name, side) for name in WAYS}
    rows: list[dict[str, Cell]] = []
    for name, way in OURS.items():
        value, ours = value_and_gradient(way, side)
        memory = [megabytes["original"], megabytes[name]]
        rows.append(
            {
                "map": f"{side}x{side}",
                "way": name,
                "ms": ms[name],
                "original, ms": ms["original"],
                "original / ours": ms["original"] / ms[name],
                "lean / ours": ms["lean"] / ms[name],
                "peak, MB": memory[1],
                "original, peak MB": memory[0],
                "error of loss": float((value - truth).abs() / truth.abs()),
                "error of gradient": float((ours - gradient).abs().max() / gradient.abs().max()),
            }
        )
    return rows


def missed(row: dict[str, Cell]) -> list[str]:
    """Goals that the row of the default way misses."""
    if row["way"] != "auto":
        return []
    speed = {"56x56": 10.0, "96x96": 30.0}.get(str(row["map"]), 1.0)
    goals = {
        f"{speed:g} times as fast as the original": float(row["original / ours"] or 0) >= speed,
        "errors below 1e-5": max(float(row[f"error of {x}"] or 0) for x in ("loss", "gradient"))
        < 1e-5,
    }
    if row["peak, MB"] is not None and speed > 1:
        tenth = float(row["original, peak MB"] or 0) / 10
        goals["a tenth of the memory"] = float(row["peak, MB"]) <= tenth
    return [f"{row['map']}: {goal}" for goal, reached in goals.items() if not reached]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 56, 96], help="cells a side")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    parser.add_argument("--peak", choices=WAYS, help="only print this way's peak memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(measure_peak(options.peak, options.sides[0]))
        return
    rows = []
    for side in options.sides:
        rows += measure(side, options.repeats)
        print(*rows[-len(OURS) :], sep="\n", file=sys.stderr)
    command = (
        f"python benchmarks/feature_similarity.py --sides {' '.join(map(str, options.sides))} "
        f"--repeats {options.repeats} --threads {options.threads}"
    )
    if options.out:
        write_outcome(
            options.out, name="feature_similarity", command=command, rows=rows, notes=NOTES
        )
    failures = [goal for row in rows for goal in missed(row)]
    for goal in failures:
        print(f"missed: {goal}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
