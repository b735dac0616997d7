"""Claim about context labels: an exact meta-gradient for less time and memory than the published.

    python benchmarks/meta_gradient.py [--repeats 5] [--threads 1] [--out FILE.json]

Every row is measured in this run: the product with the second derivative alone (from the direction
to the generator's gradient), then what whole training costs, against plain training. What it is
measured against:

published   central differences as in the published code: two passes with all activations kept, at
            weights moved by 0.01, each with the generator's forward and backward pass
double      backward through the gradient, which is exact, too
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
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from outcome import Cell, write_outcome
from segmend.context import ContextGenerator, ContextLabelLearner, PlainContext, meta_gradient
from segmend.context.functional import Functional, Weights
from segmend.context.generator import GeneratorTrainer
from segmend.context.labels import context_targets
from segmend.context.loss import context_loss, meta_objective
from segmend.context.meta import generator_gradients, label_gradients
from segmend.models.plain_unet import PlainUNet
from timing import fastest, finish

CONTEXTS, EVERY, WARM_UP = 3, 5, 20
WIDTHS = (16, 32, 64, 96)
SIDES = {2: 96, 3: 32}
BATCH = {2: 4, 3: 2}
NOTES = (
    "Milliseconds of processor time, the fastest of several runs taken in turn; the ratios are of "
    "times in one run. U-Nets of 16 to 96 channels with deep supervision, K = 3, after 20 steps.",
    "kept: most bytes held for backward passes at one time, weights and images left out; peak: "
    "most bytes allocated at one time.",
    "product: from a direction of the weights to the generator's gradient, on one image. The "
    "generator is as large as the segmenter, as published, unless it says light.",
    "training: 5 steps on a batch of 4 images of 96 x 96, or 2 of 32 x 32 x 32, the generator's "
    "update among them, against 5 steps without contexts. `light` is ContextGenerator, on half of "
    "the batch; `published` has a generator of the segmenter's size and an update for each image.",
)


class Problem:
    """A segmenter, a generator, a batch, and a direction of the weights."""

    def __init__(self, dimensions: int, *, light: bool) -> None:
        torch.manual_seed(0)
        axes = 3 if dimensions == 3 else 2
        channels = CONTEXTS + 1
        self.model = PlainUNet(1, channels, widths=WIDTHS, dimensions=axes, deep_supervision=True)
        self.generator: nn.Module = PlainUNet(1, CONTEXTS, widths=WIDTHS, dimensions=axes)
        if light:
            self.generator = ContextGenerator(1, CONTEXTS, dimensions=axes)
        self.images, self.target = example(dimensions, BATCH[dimensions])
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-2, momentum=0.9)
        learner = ContextLabelLearner(
            self.model,
            self.generator,
            num_context=CONTEXTS,
            optimizer=optimizer,
            update_every=4,
            tau=None,
        )
        for _ in range(WARM_UP):
            learner.step({"image": self.images, "target": self.target})
        self.images, self.target = self.images[:1], self.target[:1]
        self.network = Functional(self.model, self.images.device)
        objective = meta_objective(self.model(self.images)[0], self.target)
        named = dict(self.model.named_parameters())
        slope = torch.autograd.grad(objective, list(named.values()), allow_unused=True)
        pairs = zip(named, slope, strict=True)
        self.direction: Weights = {name: g for name, g in pairs if g is not None}

    def labels(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        context = self.generator(self.images).softmax(1)
        sizes = [z.shape[2:] for z in levels]
        return context_targets(self.target, context, sizes, num_classes=2)

    def ours(self) -> tuple[Tensor, ...]:
        sizes = [[-(-n // 2**level) for n in self.images.shape[2:]] for level in range(3)]
        labels, valid = self.labels([torch.empty(1, 1, *size) for size in sizes])
        inner = partial(context_loss, valid=valid, num_classes=2)
        _, wanted = label_gradients(
            self.network, self.direction, self.images, labels, inner, method="forward"
        )
        return generator_gradients(self.generator, labels, wanted)

    def published(self) -> tuple[Tensor, ...]:
        norm = torch.cat([d.flatten() for d in self.direction.values()]).norm()
        step = float(1e-2 / norm)
        sides = [self.side(step), self.side(-step)]
        return tuple((a - b) / (2 * step) for a, b in zip(*sides, strict=True))

    def side(self, step: float) -> tuple[Tensor, ...]:
        weights = {
            name: (w + step * self.direction[name] if name in self.direction else w.clone())
            for name, w in self.network.weights.items()
        }
        levels = self.network({n: w.requires_grad_() for n, w in weights.items()}, self.images)
        labels, valid = self.labels(levels)
        loss = context_loss(levels, labels, valid, num_classes=2)
        return torch.autograd.grad(loss, list(self.generator.parameters()))

    def double(self) -> tuple[Tensor, ...]:
        weights = {n: w.clone().requires_grad_() for n, w in self.network.weights.items()}
        levels = self.network(weights, self.images)
        labels, valid = self.labels(levels)
        loss = context_loss(levels, labels, valid, num_classes=2)
        moving = [weights[name] for name in self.direction]
        slope = torch.autograd.grad(loss, moving, create_graph=True)
        along = [(g * d).sum() for g, d in zip(slope, self.direction.values(), strict=True)]
        return torch.autograd.grad(torch.stack(along).sum(), list(self.generator.parameters()))


def example(dimensions: int, count: int) -> tuple[Tensor, Tensor]:
    """Smooth images, and their brightest tenth as target."""
    draw = torch.Generator().manual_seed(1)
    side = SIDES[dimensions]
    coarse = torch.randn(count, 1, *[side // 8] * dimensions, generator=draw)
    mode = "bicubic" if dimensions == 2 else "trilinear"
    images = F.interpolate(coarse, size=[side] * dimensions, mode=mode)
    target = (images[:, 0] > images.flatten().quantile(0.9)).long()
    return images + 0.3 * torch.randn(images.shape, generator=draw), target


def kept_bytes(work: Callable[[], object], ours: set[int]) -> int:
    """Most bytes that are held for backward passes at one time, storages in `ours` left out."""
    counts: dict[int, int] = {}
    total = most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal total, most
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            if self.key not in ours:
                counts[self.key] = counts.get(self.key, 0) + 1
                total += tensor.untyped_storage().nbytes() if counts[self.key] == 1 else 0
                most = max(most, total)

        def __del__(self) -> None:
            nonlocal total
            if self.key not in ours:
                counts[self.key] -= 1
                total -= 0 if counts[self.key] else self.tensor.untyped_storage().nbytes()

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        work()
    return most


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that are allocated at one time, above what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = found.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    total = most = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def measure_product(dimensions: int, repeats: int, *, light: bool) -> dict[str, Cell]:
    """One row about the product alone."""
    problem = Problem(dimensions, light=light)
    works = {"ours": problem.ours, "published": problem.published, "double": problem.double}
    exact = flat(problem.double())
    ms = fastest(works, repeats, clock=time.process_time)
    tensors = [*problem.model.parameters(), *problem.generator.parameters(), problem.images]
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept = {name: kept_bytes(work, own) / 2**20 for name, work in works.items()}
    peak = {name: peak_bytes(work) / 2**20 for name, work in works.items()}
    row: dict[str, Cell] = {"what": f"{dimensions}D product" + ", light generator" * light}
    row |= {name: round(ms[name], 1) for name in works}
    row |= {
        "ours / published": round(ms["ours"] / ms["published"], 2),
        "ours / double": round(ms["ours"] / ms["double"], 2),
    }
    row |= {f"kept MiB, {name}": round(kept[name], 1) for name in works}
    row["kept, ours / published"] = round(kept["ours"] / kept["published"], 2)
    row |= {f"peak MiB, {name}": round(peak[name], 1) for name in works}
    row["peak, ours / published"] = round(peak["ours"] / peak["published"], 2)
    for name in ("ours", "published"):
        error = (flat(works[name]()) - exact).norm() / exact.norm()
        row[f"error, {name}"] = float(f"{error.item():.1e}")
    return row


def five_steps(dimensions: int, kind: str) -> Callable[[], None]:
    """A function that trains five steps; "plain", "ours" or "published"."""
    torch.manual_seed(0)
    axes = 3 if dimensions == 3 else 2
    contexts = 1 if kind == "plain" else CONTEXTS
    model = PlainUNet(1, contexts + 1, widths=WIDTHS, dimensions=axes, deep_supervision=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.99, nesterov=True)
    generator: nn.Module = ContextGenerator(1, CONTEXTS, dimensions=axes)
    if kind == "published":
        generator = PlainUNet(1, CONTEXTS, widths=WIDTHS, dimensions=axes)
    learner = ContextLabelLearner(
        model,
        PlainContext() if kind == "plain" else generator,
        num_context=contexts,
        optimizer=optimizer,
        update_every=EVERY if kind == "ours" else 0,
        tau=None,
        clip_norm=12.0,
    )
    images, target = example(dimensions, BATCH[dimensions])
    trainer = GeneratorTrainer(generator)

    def work() -> None:
        for _ in range(EVERY):
            learner.step({"image": images, "target": target})
        if kind == "published":
            for x, y in zip(images.split(1), target.split(1), strict=True):
                found = meta_gradient(model, generator, x, y, inner_lr=1e-2, method="published")
                trainer.apply(found.gradients)

    return work


def measure_training(dimensions: int, repeats: int) -> dict[str, Cell]:
    """One row about whole training."""
    works = {kind: five_steps(dimensions, kind) for kind in ("plain", "ours", "published")}
    ms = fastest(works, repeats, clock=time.process_time)
    row: dict[str, Cell] = {"what": f"{dimensions}D training"}
    row |= {kind: round(ms[kind]) for kind in works}
    row["ours / plain"] = round(ms["ours"] / ms["plain"], 2)
    row["published / plain"] = round(ms["published"] / ms["plain"], 2)
    return row


def missed(row: dict[str, Cell]) -> list[str]:
    """Which goals a row misses."""
    limits = {
        "ours / published": 0.8,
        "kept, ours / published": 0.5,
        "error, ours": 1e-5,
        "ours / plain": 1.5,
    }
    if "light" in str(row["what"]):
        del limits["ours / published"]  # two passes of the segmenter are less than forward mode's
    found = [(name, row.get(name), limit) for name, limit in limits.items()]
    return [
        f"{row['what']}: {n} <= {most}" for n, v, most in found if v is not None and float(v) > most
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for dimensions in (2, 3):
        for light in (False, True):
            rows.append(measure_product(dimensions, options.repeats, light=light))
            print(rows[-1], file=sys.stderr)
        rows.append(measure_training(dimensions, max(options.repeats // 2, 1)))
        print(rows[-1], file=sys.stderr)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    rows = [{name: row.get(name) for name in columns} for row in rows]
    command = (
        f"python benchmarks/meta_gradient.py --repeats {options.repeats} --threads "
        f"{options.threads}"
    )
    if options.out:
        write_outcome(options.out, name="meta_gradient", command=command, rows=rows, notes=NOTES)
    finish([goal for row in rows for goal in missed(row)])


if __name__ == "__main__":
    main()
