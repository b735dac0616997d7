"""When the generator learns, and from which images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from segmend.context.generator import GeneratorTrainer
from segmend.context.loss import Dice, context_loss
from segmend.context.meta import MetaGradient, Method, meta_gradient
from segmend.errors import SegmendError

MetaBatch = Literal["same", "next"]

_INNER_LR = 1e-2  # published: the segmenter's learning rate at the start


@dataclass(frozen=True)
class LossOptions:
    """Of `context_loss`."""

    num_classes: int
    dice: Dice
    weights: Sequence[float] | None

    def of(self, logits: list[Tensor], labels: list[Tensor], valid: list[Tensor]) -> Tensor:
        """The loss of levels."""
        return context_loss(
            logits,
            labels,
            valid,
            num_classes=self.num_classes,
            dice=self.dice,
            weights=self.weights,
        )


class Samples(NamedTuple):
    """Images that a virtual step is made on, or judged on."""

    images: Tensor
    target: Tensor
    mask: Tensor | None


class GeneratorUpdates:
    """Every so many steps a meta-gradient and a step of the generator; see `ContextLabelLearner`.

    Args:
        every: steps between updates, 0: never.
    Raises:
        SegmendError: options that cannot be.
    """

    def __init__(
        self,
        trainer: GeneratorTrainer,
        loss: LossOptions,
        *,
        every: int,
        meta_batch: MetaBatch,
        meta_samples: int | None,
        method: Method,
        ignore_index: int,
    ) -> None:
        if meta_batch not in get_args(MetaBatch):
            raise SegmendError(f"meta_batch: want one of {get_args(MetaBatch)}, got {meta_batch!r}")
        if every < 0 or (meta_samples is not None and meta_samples < 1):
            raise SegmendError(
                f"learner: want update_every >= 0 and meta_samples >= 1, got {every} and "
                f"{meta_samples}"
            )
        self.trainer, self.loss, self.every = trainer, loss, every
        self.meta_batch: MetaBatch = meta_batch
        self.meta_samples, self.ignore_index = meta_samples, ignore_index
        self.method: Method = method
        self.held: Samples | None = None

    def run(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor,
        mask: Tensor | None,
        *,
        step: int,
        inner_lr: float,
        schedule: float,
    ) -> MetaGradient | None:
        """The update of this step, counted from 0, or None where none is due."""
        due = self.every > 0 and (step + 1) % self.every == 0
        inner = self._some(images, target, mask) if due else None
        outer = None
        if self.meta_batch == "next":
            inner, self.held = self.held, inner
            outer = None if inner is None else self._some(images, target, None)
        if inner is None:
            return None
        self.trainer.to(images.device)
        # A product of differences: in half precision it would be worse than what it replaces.
        with torch.autocast(images.device.type, enabled=False):
            found = meta_gradient(
                model,
                self.trainer.generator,
                inner[0],
                inner[1],
                mask=inner[2],
                outer_images=None if outer is None else outer.images,
                outer_target=None if outer is None else outer.target,
                inner_lr=inner_lr,
                num_classes=self.loss.num_classes,
                dice=self.loss.dice,
                weights=self.loss.weights,
                ignore_index=self.ignore_index,
                method=self.method,
            )
        self.trainer.apply(found.gradients, factor=schedule)
        return found

    def _some(self, images: Tensor, target: Tensor, mask: Tensor | None) -> Samples:
        """Some images of a batch: in turn, so that none is left out for its place."""
        count = min(self.meta_samples or (len(images) + 1) // 2, len(images))
        start = self.trainer.updates * count
        chosen = torch.arange(start, start + count, device=images.device) % len(images)
        return Samples(images[chosen], target[chosen], None if mask is None else mask[chosen])


def learning_rate(optimizer: torch.optim.Optimizer | None) -> float:
    """The largest of its groups' now; without one, the published 1e-2."""
    if optimizer is None:
        return _INNER_LR
    return max(float(group["lr"]) for group in optimizer.param_groups)


def schedule_share(optimizer: torch.optim.Optimizer | None) -> float:
    """The learning rate now, as a share of what its schedule started from; at most 1."""
    if optimizer is None:
        return 1.0
    group = optimizer.param_groups[0]
    start = float(group.get("initial_lr", group["lr"]))
    return min(1.0, float(group["lr"]) / start) if start > 0 else 1.0
