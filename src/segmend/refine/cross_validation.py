"""Fit a refiner's networks by cross-validation, and let the gate judge them on unseen images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.refine.applying import apply_network, build_network, resized
from segmend.refine.examples import Example
from segmend.refine.fitting import fit_network, pseudo_labels_of
from segmend.refine.gate import choose_gate
from segmend.refine.options import RefineOptions
from segmend.refine.refiner import OPEN, Refiner


class Progress(NamedTuple):
    """Where fitting stands: network `network` of `networks`, `epochs` done of `of_epochs`."""

    network: int
    networks: int
    epochs: int
    of_epochs: int
    loss: float


def fit_refiner(
    examples: Sequence[Example],
    options: RefineOptions,
    *,
    groups: Sequence[object] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Refiner:
    """`Refiner.fit` on examples that are already in memory.

    Args:
        groups: one label an example: those that share it (the same class, patient or scene) are
            held out together, so that the gate judges the refiner on groups it never saw.
    """
    channels, given = examples[0].logits.shape[0], examples[0].image is not None
    with_images = given and options.network_sees_images
    if options.resize is not None:
        examples = [_resized_example(e, options.resize) for e in examples]
    guides = [e.image for e in examples if e.image is not None] if options.guided else []
    if not with_images:
        examples = [replace(e, image=None) for e in examples]
    pseudo = pseudo_labels_of(examples, options)
    folds = split_folds(groups or range(len(examples)), options.folds, seed=options.seed)
    networks: list[nn.Module] = []
    unseen: dict[int, Tensor] = {}
    for number, held_out in enumerate(folds):

        def report(epochs: int, loss: float, number: int = number) -> None:
            if on_progress is not None:
                on_progress(Progress(number + 1, len(folds), epochs, options.epochs, loss))

        kept = [i for i in range(len(examples)) if i not in held_out]
        seed = options.seed * 1000 + number
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the initial weights
            network = build_network(options, channels=channels, with_images=with_images)
        seen = [examples[i] for i in kept], [pseudo[i] for i in kept]
        networks.append(fit_network(network, *seen, options, seed=seed, on_epoch=report))
        unseen |= {i: _refine_example(network, examples[i], options) for i in sorted(held_out)}
    gate = OPEN
    if unseen:
        gate = choose_gate(
            [e.logits for e in examples],
            [unseen[i] for i in range(len(examples))],
            [e.labels for e in examples],
            images=guides or None,
            task=options.task,
            confidence=options.gate_confidence,
            boundary_slack=options.boundary_slack,
            seed=options.seed,
        )
    return Refiner(networks, options=options, gate=gate, channels=channels, with_images=with_images)


def split_folds(groups: Sequence[object], folds: int, *, seed: int) -> list[set[int]]:
    """Which examples each network does not see: `folds` parts of whole groups, or an empty one."""
    names = list(dict.fromkeys(groups))
    folds = min(folds, len(names))
    if folds < 2:
        return [set()]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    parts = [{names[i] for i in order[k::folds]} for k in range(folds)]
    return [{i for i, group in enumerate(groups) if group in part} for part in parts]


@torch.inference_mode()
def _refine_example(network: nn.Module, example: Example, options: RefineOptions) -> Tensor:
    image = None if example.image is None else example.image.float().unsqueeze(0) / 255
    logits = example.logits.float().unsqueeze(0)
    inner = options.model_copy(update={"resize": None})  # examples are resized already
    return apply_network(network, logits, image, inner)[0].half()


def _resized_example(example: Example, side: int) -> Example:
    """Bilinear for maps and images, nearest for labels: an ignored pixel stays ignored."""
    logits = resized(example.logits.float().unsqueeze(0), (side, side))[0].half()
    labels = F.interpolate(example.labels[None, None].float(), size=(side, side), mode="nearest")
    image = example.image
    if image is not None:
        image = resized(image.float().unsqueeze(0), (side, side))[0].round().to(torch.uint8)
    return Example(example.name, logits, labels[0, 0].to(torch.uint8), image)
