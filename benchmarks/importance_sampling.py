"""How much the gradient of the importance-sampling loss varies, by way of drawing and by samples.

    python benchmarks/importance_sampling.py [--draws 200] [--out FILE.json]

One batch of procedural scenes, a tag classifier on bundled ImageNet weights whose head was fitted
first. Every way is an unbiased estimate of the same gradient, that of `sampling="exact"`; its
variance is the mean squared distance to it over many draws, relative to its squared length, in the
weights of the head and of the block before it. "by logit" takes the pixels in the order of
their logit instead of row by row: tried, not in the library.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from outcome import Cell, write_outcome
from segmend.data.scenes import make_scenes
from segmend.models.squeezenet import SqueezeNetEncoder
from segmend.tags.importance import average_pooling_loss, importance_sampling_loss, sampled_loss

CLASSES, SIDE, IMAGES, FITTED = 20, 224, 8, 32
BLOCK = 10  # the last block at stride 8
STEPS = 150
NOTES = (
    f"{IMAGES} scenes of {SIDE}x{SIDE} px, {CLASSES} classes, maps of 28x28 (SqueezeNet at stride "
    f"8, head fitted to {FITTED} scenes by average pooling).",
    "Variance: mean squared distance of a draw's gradient to the exact one, over the squared "
    "length of the exact one. ms: processor time of loss and gradient in the logits.",
    "Spread of the loss: standard deviation over mean. Mean draw: the mean of all draws' head "
    "gradients against the exact one, no bias but what is left of the variance.",
    'The default is the published form: sampling="published", 10 samples. At equal cost '
    "stratified is the better estimate; exact, at the cost of some 40 samples, has no variance.",
)
Loss = Callable[[Tensor, Tensor], Tensor]


def scene_batch() -> tuple[Tensor, Tensor]:
    """Features before the last block (N, 512, 28, 28) and tags (N, C)."""
    scenes = list(make_scenes(FITTED, size=(SIDE, SIDE), num_classes=CLASSES + 1, seed=0))
    images = torch.stack([scene.image for scene in scenes])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        features = SqueezeNetEncoder(depth=3).features[:BLOCK](images)
    return features, torch.stack([scene.tags for scene in scenes]).float()


def fitted_classifier(features: Tensor, tags: Tensor) -> nn.Sequential:
    """Last block and head; the head fitted by average pooling, the block as it was."""
    block = SqueezeNetEncoder(depth=3).features[BLOCK]
    with torch.no_grad():
        inputs = block(features)
    head = nn.Conv2d(inputs.shape[1], CLASSES, 1, bias=False)
    nn.init.zeros_(head.weight)  # the features are large: logits shall not be
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        average_pooling_loss(head(inputs), tags).backward()
        optimizer.step()
    return nn.Sequential(block, head)


def by_logit(logits: Tensor, tags: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Stratified, with the pixels in the order of their logit."""
    scores = logits.detach().flatten(2)
    order = scores.argsort(2)
    sums = (torch.sigmoid(scores) + 1e-5).gather(2, order).cumsum(2, dtype=torch.float64)
    offset = torch.rand((*sums.shape[:2], 1), generator=generator, dtype=sums.dtype)
    at = (torch.arange(samples) + offset) / samples * sums[:, :, -1:]
    at = torch.searchsorted(sums, at, right=True).clamp(max=sums.shape[2] - 1)
    return sampled_loss(logits, tags, order.gather(2, at))


def ways() -> dict[str, Loss]:
    """What a row measures; "exact" is what all are compared to."""
    generator = torch.Generator().manual_seed(0)

    def published(samples: int) -> Loss:
        return lambda logits, tags: importance_sampling_loss(
            logits, tags, num_samples=samples, generator=generator
        )

    def stratified(samples: int) -> Loss:
        return lambda logits, tags: importance_sampling_loss(
            logits, tags, num_samples=samples, sampling="stratified", generator=generator
        )

    return {
        **{f"published, {s} samples": published(s) for s in (10, 20, 40, 100)},
        **{f"stratified, {s} samples": stratified(s) for s in (10, 40)},
        "stratified by logit, 10 samples": lambda z, y: by_logit(z, y, 10, generator),
        "exact": lambda z, y: importance_sampling_loss(z, y, sampling="exact"),
    }


class Estimate:
    """Gradients in the logits, head and block of one batch, for a loss."""

    def __init__(self, network: nn.Sequential, features: Tensor, tags: Tensor) -> None:
        block, head = network[0], network[1]
        self.tags = tags
        self.inputs = block(features)
        self.block = list(block.parameters())
        self.weight = head.weight
        self.logits = F.conv2d(self.inputs, self.weight)

    def __call__(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Head's and block's gradients, each as one vector."""
        (pull,) = torch.autograd.grad(loss(self.logits, self.tags), self.logits, retain_graph=True)
        head, *block = torch.autograd.grad(
            self.logits, [self.weight, *self.block], pull, retain_graph=True
        )
        return head.flatten(), torch.cat([each.flatten() for each in block])


def milliseconds(loss: Loss, logits: Tensor, tags: Tensor, repeats: int = 20) -> float:
    """Fastest of several runs, loss and gradient in the logits."""
    logits = logits.detach().requires_grad_()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        loss(logits, tags).backward()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def measure(draws: int) -> list[dict[str, Cell]]:
    """One row a way."""
    features, tags = scene_batch()
    network = fitted_classifier(features, tags)
    estimate = Estimate(network, features[:IMAGES], tags[:IMAGES])
    exact = estimate(ways()["exact"])
    rows: list[dict[str, Cell]] = []
    for name, loss in ways().items():
        sums = [torch.zeros(()), torch.zeros(())]
        means = [torch.zeros_like(part) for part in exact]
        number = 1 if name == "exact" else draws
        for _ in range(number):
            for k, part in enumerate(estimate(loss)):
                sums[k] += (part - exact[k]).square().sum() / number
                means[k] += part / number
        variance = [float(sums[k] / exact[k].square().sum()) for k in (0, 1)]
        off = (means[0] - exact[0]).norm() / exact[0].norm()
        values = [float(loss(estimate.logits.detach(), estimate.tags)) for _ in range(number)]
        spread, value = (float(x) for x in torch.std_mean(torch.tensor(values), correction=0))
        rows.append(
            {
                "way": name,
                "variance, head": variance[0],
                "variance, block": variance[1],
                "spread of the loss": spread / value,
                "mean draw, off by": float(off),
                "ms": milliseconds(loss, estimate.logits, estimate.tags),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def missed(rows: list[dict[str, Cell]], draws: int) -> list[str]:
    """Estimates whose mean is not the exact gradient, within five deviations of that mean."""
    return [
        f"{row['way']}: biased"
        for row in rows
        if float(row["mean draw, off by"] or 0)
        > 5 * (float(row["variance, head"] or 0) / draws) ** 0.5 + 1e-6
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=200, help="draws of each way")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.draws)
    command = f"python benchmarks/importance_sampling.py --draws {options.draws}"
    if options.out:
        write_outcome(
            options.out, name="importance_sampling", command=command, rows=rows, notes=NOTES
        )
    failures = missed(rows, options.draws)
    for failure in failures:
        print(f"missed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
