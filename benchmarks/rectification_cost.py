"""Claim: rectification costs at most 3% of a training step, and 10% of cross-entropy's memory.

    python benchmarks/rectification_cost.py [--batch 2] [--size 321] [--repeats 5] [--out FILE.json]

At 21, 81 and 1,000 classes, each measured in this run, in turn. A training step is the forward and
backward pass of DeepLab v1 on SqueezeNet with cross-entropy at full resolution, as `segmend train`
does it (channels last, bfloat16 where the processor has it): the lightest network of this package,
so that the share is an upper bound. One pixel in ten is out of candidates.

mask              `out_of_candidate_mask`, against `argmax` over the classes, which a plain version
                  of it would start with
loss              rectification, forward and backward, its gradient added to one that is there,
                  as a share of the step's time; and what it adds to the peak of memory of
                  cross-entropy above the logits. Over out-of-candidate pixels, over all on a grid
                  of every fourth, and on such a grid laid over the hierarchical head's cells
                  before they are enlarged, as the recipes have it
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.engine.options import has_fast_bfloat16
from segmend.rectify import candidates_of, out_of_candidate_mask, rectification_loss
from segmend.rectify.network import RectifiedSpec, build_rectified
from timing import fastest, finish

SHARE = 0.1
TIME_GOAL, MEMORY_GOAL = 0.03, 0.10
STRIDE = 4
CELLS = "every, from cells"
KINDS: dict[str, dict[str, Any]] = {
    "out of candidates": {},
    "every, stride 4": {"average": "every", "stride": STRIDE},
    CELLS: {"average": "every", "form": "foreground"},
}


def example(classes: int, batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of which `SHARE` lead with an impossible class, candidates, targets."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, size, size, generator=rng)
    tags = torch.zeros(batch, classes - 1)
    tags[:, :2] = 1
    out = torch.rand(batch, size, size, generator=rng) < SHARE
    logits[:, 0] += 20 * ~out
    logits[:, classes // 2 + 1] += 20 * out
    target = torch.randint(3, (batch, size, size), generator=rng)
    return logits, candidates_of(tags), target


def peak_of(work: Callable[[], object]) -> int:
    """Largest sum of bytes that torch's CPU allocator held during `work`, above the start."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def row_of(
    kind: str, classes: int, batch: int, size: int, repeats: int
) -> tuple[dict[str, Cell], list[str]]:
    logits, candidates, target = example(classes, batch, size)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    head = "hierarchical" if kind == CELLS else "plain"
    spec = RectifiedSpec("deeplabv1", "squeezenet1_0", classes, 0, head, gate=False)
    model = build_rectified(spec).to(memory_format=torch.channels_last)
    nowhere = torch.zeros(batch, size, size, dtype=torch.bool)
    # What the losses start from: logits, or the cells that become them.
    read = model.read(images)
    start = read.cells.detach() if kind == CELLS else logits

    def rectified(x: Tensor) -> Tensor:
        ranked = read._replace(logits=x)
        if kind == CELLS:
            ranked = model.on_grid(read._replace(cells=x), STRIDE, nowhere)[0]
        return rectification_loss(
            ranked.logits, candidates, class_logits=ranked.classes, **KINDS[kind]
        )

    def cross_entropy(x: Tensor) -> Tensor:
        if kind == CELLS:
            x = model.enlarged(x, read.covered).cut(size, size).logits
        return F.cross_entropy(x, target)

    # Rectification first: its gradient is then made last, in memory that is free again.
    def backward(*losses: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def work() -> None:
            x = start.clone().requires_grad_()
            sum((loss(x) for loss in losses), torch.zeros(())).backward()

        return work

    leaf = start.clone().requires_grad_()
    leaf.grad = torch.zeros_like(start)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(images.device)):
            reading = model.read(images)
        F.cross_entropy(reading.logits.float(), target).backward()

    works: dict[str, Callable[[], object]] = {
        "mask": lambda: out_of_candidate_mask(logits, candidates),
        "argmax": lambda: logits.argmax(1),
        "cross-entropy": backward(cross_entropy),
        "rectification": lambda: rectified(leaf).backward(),
        "step": step,
    }
    ms = fastest(works, repeats, clock=time.thread_time)
    plain, both = (peak_of(backward(*ls)) for ls in ([cross_entropy], [rectified, cross_entropy]))
    share, memory = ms["rectification"] / ms["step"], (both - plain) / plain
    row: dict[str, Cell] = {
        "pixels": kind,
        "classes": classes,
        "mask, ms": f"{ms['mask']:.1f}",
        "argmax, ms": f"{ms['argmax']:.1f}",
        "cross-entropy, ms": f"{ms['cross-entropy']:.0f}",
        "loss adds, ms": f"{ms['rectification']:.1f}",
        "training step, ms": f"{ms['step']:.0f}",
        "of the step": f"{100 * share:.1f}%",
        "cross-entropy, MB": f"{plain / 1e6:.0f}",
        "loss adds, MB": f"{(both - plain) / 1e6:.0f}",
        "of its memory": f"{100 * memory:.1f}%",
    }
    missed = []
    if classes == 21 and share > TIME_GOAL:
        missed.append(f"{kind}: {100 * share:.1f}% of a training step at 21 classes, goal 3%")
    if classes == 21 and memory > MEMORY_GOAL:
        missed.append(f"{kind}: {100 * memory:.1f}% of cross-entropy's memory at 21, goal 10%")
    return row, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="+", type=int, default=[21, 81, 1000])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=321)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, missed = [], []
    for kind, classes in itertools.product(KINDS, options.classes):
        row, late = row_of(kind, classes, options.batch, options.size, options.repeats)
        rows.append(row)
        missed += late
        print(row, flush=True)
    if options.out is not None:
        notes = (
            "Milliseconds of processor time for a batch, the fastest of several runs taken in "
            "turn, one thread; megabytes are the peak above the logits, forward and backward.",
            f"{100 * SHARE:.0f}% of the pixels are out of candidates. loss adds, ms: forward and "
            "backward, the gradient added to another one; MB: cross-entropy with rectification "
            "less cross-entropy alone, rectification first in the sum.",
        )
        write_outcome(
            options.out, name="rectification_cost",
            command="python benchmarks/rectification_cost.py", rows=rows, notes=notes,
        )  # fmt: skip
    finish(missed)


if __name__ == "__main__":
    main()
