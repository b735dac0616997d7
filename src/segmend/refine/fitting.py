"""The training loop of one refinement network, and the two ways to cut batches for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.refine.applying import run_network, variant_of
from segmend.refine.examples import IGNORE, Example
from segmend.refine.loss import patch_refine_loss
from segmend.refine.network import GRIDS, RefinedLogits
from segmend.refine.options import RefineOptions
from segmend.refine.pseudo_labels import multiclass_pseudo_labels, patch_pseudo_labels

SMALLEST_CROP = 32
"""Images narrower than this are padded by ignored pixels."""


class Batch(NamedTuple):
    """logits (N, C, H, W), labels and pseudo-labels (N, H, W) int64 with 255 = ignored, images."""

    logits: Tensor
    labels: Tensor
    pseudo: Tensor
    images: Tensor | None


def pseudo_labels_of(examples: Sequence[Example], options: RefineOptions) -> list[Tensor]:
    """Patch pseudo-labels (H, W) uint8 of every example; the labels themselves if they weigh 0."""
    if options.pseudo_label_weight == 0:
        return [e.labels for e in examples]
    grid = None if options.method == "bias-field" else GRIDS[variant_of(options)]
    found = []
    for example in examples:
        logits, labels = example.logits.float().unsqueeze(0), example.labels.long().unsqueeze(0)
        size: int | tuple[int, int] = options.patch_size or (
            64 if grid is None else _cells(labels.shape[1:], grid)
        )
        if logits.shape[1] == 1:
            # On logits the base's cut p = 0.5 is 0: a sigmoid brings "nearest" back to 0.5.
            pseudo = patch_pseudo_labels(
                logits[:, 0].sigmoid(), labels, patch_size=size, ignore_index=IGNORE
            )
        else:
            pseudo = multiclass_pseudo_labels(logits, labels, patch_size=size, ignore_index=IGNORE)
        found.append(pseudo[0].to(torch.uint8))
    return found


def _cells(size: Sequence[int], grid: int) -> tuple[int, int]:
    return math.ceil(size[0] / grid), math.ceil(size[1] / grid)


def fit_network(
    network: nn.Module,
    examples: Sequence[Example],
    pseudo: Sequence[Tensor],
    options: RefineOptions,
    *,
    seed: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Fit `network` to `examples` in place and return it in eval mode.

    Args:
        network: from `build_network` (applying.py).
        examples, pseudo: the images to fit to and their pseudo-labels, in the same order.
        seed: of order, crops and flips.
        on_epoch: called with the epochs done and the mean training loss.
    """
    generator = torch.Generator().manual_seed(seed)
    size = options.batch_size if options.crop else 1
    steps = math.ceil(len(examples) / size) * options.epochs
    optimizer = _optimizer(network, options)
    one_cycle = options.schedule == "one-cycle" and steps > 0
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
        if one_cycle
        else None
    )
    plateau = Plateau(network, optimizer)
    network.train()
    for epoch in range(options.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        total = 0.0
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = make_batch([(examples[i], pseudo[i]) for i in chosen], options, generator)
            loss = refine_loss(run_network(network, batch.logits, batch.images), batch, options)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if schedule is not None:
                schedule.step()
            total += float(loss.detach()) * len(chosen)
        if on_epoch is not None:
            on_epoch(epoch + 1, total / len(examples))
        if schedule is None and plateau.should_stop(total / len(examples)):
            break
    return network.eval()


class Plateau:
    """The published schedule on the training loss (see `RefineOptions.schedule`).

    Source: released training code: patience 4 and 8, factor 1.1, floor 5e-8.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.best, self.idle = math.inf, 0
        self.weights = copy.deepcopy(network.state_dict())

    def should_stop(self, loss: float) -> bool:
        """Note an epoch's loss; may reload the best weights and lower the rate."""
        if loss < self.best:
            self.best, self.idle = loss, 0
            self.weights = copy.deepcopy(self.network.state_dict())
            return False
        self.idle += 1
        if self.idle > 4:
            self.network.load_state_dict(self.weights)
            for group in self.optimizer.param_groups:
                group["lr"] = max(group["lr"] / 1.1, 5e-8)
        return self.idle > 8


def refine_loss(output: Tensor | RefinedLogits, batch: Batch, options: RefineOptions) -> Tensor:
    """PatchRefineNet: the published loss, one class against the rest. Bias field: `overlap_loss`
    against the truth, mixed with the same against the pseudo-labels by `pseudo_label_weight`.
    """
    weight = options.pseudo_label_weight
    if isinstance(output, RefinedLogits):
        channels = batch.logits.shape[1]
        return patch_refine_loss(
            output,
            _one_against_rest(batch.pseudo, channels),
            _one_against_rest(batch.labels, channels),
            pseudo_valid=(batch.pseudo != IGNORE).unsqueeze(1).expand_as(batch.logits),
            valid=(batch.labels != IGNORE).unsqueeze(1).expand_as(batch.logits),
            pseudo_label_weight=weight,
        )
    loss = overlap_loss(output, batch.labels)
    if weight > 0:
        loss = (1 - weight) * loss + weight * overlap_loss(output, batch.pseudo)
    return loss


def _one_against_rest(labels: Tensor, channels: int) -> Tensor:
    """(N, H, W) labels as 0 / 1 of (N, C, H, W); one channel is that of label 1."""
    classes = torch.ones(1) if channels == 1 else torch.arange(channels)
    return (labels.unsqueeze(1) == classes.to(labels.device).view(1, -1, 1, 1)).float()


def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy + Dice / 2 over valid pixels; for C > 1 the Dice of each class present.

    Args:
        logits: (N, C, H, W); labels: int64 (N, H, W), 255 = ignored.
    """
    valid = labels != IGNORE
    count = valid.sum().clamp_min(1)
    if logits.shape[1] == 1:
        truth = (labels == 1).to(logits.dtype)[valid].unsqueeze(0)
        score = logits[:, 0][valid].unsqueeze(0)
        entropy = F.binary_cross_entropy_with_logits(score, truth, reduction="sum") / count
        probs = score.sigmoid()
    else:
        flat = logits.movedim(1, -1)[valid]
        entropy = F.cross_entropy(flat, labels[valid], reduction="sum") / count
        probs = flat.softmax(-1).T
        truth = F.one_hot(labels[valid], logits.shape[1]).T.to(logits.dtype)
        present = truth.sum(1) > 0
        probs, truth = probs[present], truth[present]
    overlap = (2 * (probs * truth).sum(1) + 1) / (probs.sum(1) + truth.sum(1) + 1)
    return entropy + 0.5 * (1 - overlap).sum() / max(1, len(overlap))


def make_batch(
    chosen: Sequence[tuple[Example, Tensor]], options: RefineOptions, generator: torch.Generator
) -> Batch:
    """Cut, turn and flip the chosen examples; every part of one in the same way.

    The bias field gets all eight symmetries of the square; PatchRefineNet flips and quarter
    turns with probability 1/2 each, as published, which is the same group unevenly drawn.
    """
    side = _side([e.labels.shape for e, _ in chosen], options.crop)
    cut = [_cut(example, pseudo, side, generator) for example, pseudo in chosen]
    parts = [torch.stack([c[k] for c in cut]) for k in range(3)]
    images = None
    if chosen[0][0].image is not None:
        images = torch.stack([c[3] for c in cut]).float() / 255
        images = recoloured(images, options.colour_jitter, generator)
    return Batch(parts[0].float(), parts[1].long(), parts[2].long(), images)


def recoloured(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], each times 1 +- `amount`, each channel shifted by +- half."""
    if amount == 0:
        return images
    draw = 2 * torch.rand(len(images), 4, generator=generator) - 1
    factor, shift = 1 + amount * draw[:, :1], amount / 2 * draw[:, 1:]
    return (images * factor[:, :, None, None] + shift[:, :, None, None]).clamp(0, 1)


def _side(sizes: Sequence[Sequence[int]], crop: int | None) -> int | None:
    """Side of a batch's crops: no larger than its smallest image, since padding, which a network
    never meets when it is used, would teach it something untrue."""
    return crop and max(SMALLEST_CROP, min(crop, *(min(size) for size in sizes)))


def _cut(
    example: Example, pseudo: Tensor, side: int | None, generator: torch.Generator
) -> list[Tensor]:
    maps = [example.logits, example.labels, pseudo]
    maps += [] if example.image is None else [example.image]
    if side is not None:
        height, width = example.labels.shape
        down, right = max(0, side - height), max(0, side - width)
        if down or right:
            fill = [0, IGNORE, IGNORE, 0]
            maps = [
                F.pad(m, (0, right, 0, down), value=v)
                for m, v in zip(maps, fill[: len(maps)], strict=True)
            ]
        top = _draw(height + down - side + 1, generator)
        left = _draw(width + right - side + 1, generator)
        maps = [m[..., top : top + side, left : left + side] for m in maps]
    turns, mirrored = _draw(4, generator), _draw(2, generator)
    maps = [torch.rot90(m, turns, (-2, -1)) for m in maps]
    return [m.flip(-1) for m in maps] if mirrored else maps


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))


def _optimizer(network: nn.Module, options: RefineOptions) -> torch.optim.Optimizer:
    if options.method == "bias-field":
        return torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )
    return torch.optim.Adam(network.parameters(), options.learning_rate)
