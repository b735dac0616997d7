"""Context labels in any training loop: one object that gives the loss and trains the generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmend.context.baselines import ContextSource
from segmend.context.distance import SIGMA, TAU, MaskRule, faded
from segmend.context.functional import as_levels, unwrap
from segmend.context.generator import GENERATOR_LR, GeneratorTrainer
from segmend.context.info import StepInfo, context_usage
from segmend.context.labels import context_targets, count_channels
from segmend.context.loss import Dice
from segmend.context.merging import Merge, MergedNetwork, merged_copy
from segmend.context.meta import Method
from segmend.context.updates import (
    GeneratorUpdates,
    LossOptions,
    MetaBatch,
    Samples,
    learning_rate,
    schedule_share,
)
from segmend.errors import SegmendError
from segmend.models.single_volume import quick_single_volumes


class ContextLabelLearner:
    """CoLab for a segmenter: its background is learned as several classes, found on the way.

    `step(batch)` is a whole training step; `loss(images, target)` is for loops that step for
    themselves. Every `update_every` steps both let the generator learn first.

    Args:
        model: segmenter with num_classes + num_context - 1 logits: made so, or by `widen_head`;
            logits of the images' size, or a list of levels (deep supervision). Wrapped by
            DistributedDataParallel or `torch.compile`, too.
        generator: module to context logits (N, K, *size), such as `ContextGenerator`, or a
            `ContextSource`: labels that nobody learns, of `build_baseline`.
        num_context: K; 1 is ordinary training. num_classes: the background included.
        optimizer: of the model's parameters, any; only `step` needs it. Its learning rate is the
            virtual step's, and the generator's follows the same schedule.
        generator_lr: of Adam; published 3e-4.
        update_every: steps between updates of the generator; published 5; 0: never.
        tau, sigma, spacing: of `distance_mask`, for batches that bring no distances; tau=None: no
            mask.
        meta_batch: "same" (default, published): the virtual step is judged on its own images.
            "next": on those of the next batch.
        meta_samples: images of a batch that a virtual step takes, in turn. None (default): half
            of them, rounded up. Published: each image by itself, with an update for each.
        warm_up: steps over which context labels are faded in for the segmenter; the generator
            learns from the start. Published: 0.
        averaging: decay of a running average of the generator, which then gives the labels.
            Published: 0, none.
        dice, weights: of `context_loss`.
        inner_lr: of the virtual step; None: the optimiser's, or 1e-2 without one.
        clip_norm: of the segmenter's gradient in `step`; published 12. None: no clipping.
        method: of `meta_gradient`.
        amp: dtype of autocast in `step`; with float16 give a `scaler`. The generator learns
            outside of any autocast.
    Raises:
        SegmendError: options that cannot be; on the first step, a model or generator whose
            channels do not fit.
    Reference: Li et al., IEEE TMI 42 (2023), arXiv 2212.08423.
    """

    def __init__(
        self,
        model: nn.Module,
        generator: nn.Module | ContextSource,
        *,
        num_context: int = 2,
        num_classes: int = 2,
        optimizer: torch.optim.Optimizer | None = None,
        generator_lr: float = GENERATOR_LR,
        update_every: int = 5,
        tau: float | None = TAU,
        sigma: float = SIGMA,
        spacing: Sequence[float] | None = None,
        meta_batch: MetaBatch = "same",
        meta_samples: int | None = None,
        warm_up: int = 0,
        averaging: float = 0.0,
        dice: Dice = "published",
        weights: Sequence[float] | None = None,
        inner_lr: float | None = None,
        clip_norm: float | None = None,
        method: Method = "auto",
        amp: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.channels = count_channels(num_classes=num_classes, num_context=num_context)
        if warm_up < 0:
            raise SegmendError(f"warm_up: want a number of steps >= 0, got {warm_up}")
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.num_context, self.num_classes = num_context, num_classes
        self.inner_lr, self.clip_norm, self.amp = inner_lr, clip_norm, amp
        self.ignore_index, self.warm_up = ignore_index, warm_up
        self._rule = MaskRule(tau, sigma, spacing, ignore_index)
        self._loss = LossOptions(num_classes, dice, weights)
        self.trainer: GeneratorTrainer | None = None
        self.updates: GeneratorUpdates | None = None
        self.source: ContextSource | None = None
        if isinstance(generator, nn.Module):
            self.trainer = GeneratorTrainer(generator, lr=generator_lr, averaging=averaging)
            self.updates = GeneratorUpdates(
                self.trainer,
                self._loss,
                every=update_every if num_context > 1 else 0,
                meta_batch=meta_batch,
                meta_samples=meta_samples,
                method=method,
                ignore_index=ignore_index,
            )
        elif generator.num_context == num_context:
            self.source = generator
        else:
            raise SegmendError(
                f"num_context: the context labels given have {generator.num_context} classes, "
                f"the learner has {num_context}"
            )
        self.steps = 0
        self.info: StepInfo | None = None

    def step(self, batch: Mapping[str, Tensor]) -> StepInfo:
        """One training step of the segmenter, and of the generator where it is due.

        Args:
            batch: "image" float (N, channels, *size), "target" int64 (N, *size); optional
                "distance" of `distance_map` on the whole image, and "context", labels made by
                hand, both cropped and turned with the image.
        """
        if self.optimizer is None:
            raise SegmendError("step: wants the optimizer of the model; or use loss() in your loop")
        images = batch["image"]
        with torch.autocast(images.device.type, dtype=self.amp, enabled=self.amp is not None):
            loss = self.loss(
                images, batch["target"], distance=batch.get("distance"), maps=batch.get("context")
            )
        self.optimizer.zero_grad(set_to_none=True)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        torch.autograd.backward(scaled)
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        assert self.info is not None
        return self.info

    def loss(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """The segmenter's loss, to be gone backward from; call it once a training step.

        Arguments as in `step`. `info` tells more afterwards.
        """
        mask = None if self.num_context == 1 else self._rule.mask(target, distance)
        found = None
        if self.updates is not None:
            found = self.updates.run(
                self.model,
                images,
                target,
                mask,
                step=self.steps,
                inner_lr=learning_rate(self.optimizer) if self.inner_lr is None else self.inner_lr,
                schedule=schedule_share(self.optimizer),
            )
        with quick_single_volumes(images):
            levels = as_levels(self.model(images), images)
        if levels[0].shape[1] != self.channels:
            raise SegmendError(
                f"model: want {self.channels} logits for K = {self.num_context}, got "
                f"{levels[0].shape[1]}; call widen_head(model, {self.num_context}) before the "
                "optimiser is built"
            )
        context = self.contexts(images, target, distance=distance, maps=maps)
        labels, valid = context_targets(
            target,
            context,
            [z.shape[2:] for z in levels],
            num_classes=self.num_classes,
            mask=faded(mask, target, (self.steps + 1) / (self.warm_up + 1)),
            ignore_index=self.ignore_index,
        )
        loss = self._loss.of(levels, labels, valid)
        self.steps += 1
        usage = context_usage(context, target)
        self.info = StepInfo(
            loss.detach(), usage, *((found.objective, found.method) if found else ())
        )
        return loss

    def contexts(
        self,
        images: Tensor,
        target: Tensor,
        *,
        distance: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """The context probabilities (N, K, *size) of now, without gradient."""
        if self.source is not None:
            found = self.source.contexts(images, target, distance=distance, maps=maps)
        else:
            assert self.trainer is not None
            self.trainer.to(images.device)
            found = self.trainer.contexts(images)
        if found.shape != (len(images), self.num_context, *images.shape[2:]):
            raise SegmendError(
                f"generator: want {(len(images), self.num_context, *images.shape[2:])}, got "
                f"{tuple(found.shape)}"
            )
        return found

    def export_model(self, *, merge: Merge = "argmax", single_logit: bool = False) -> MergedNetwork:
        """A copy of the segmenter with num_classes logits, in evaluation mode.

        Args:
            merge, single_logit: see `merge_background` and `MergedNetwork`.
        """
        return merged_copy(
            unwrap(self.model),
            num_context=self.num_context,
            num_classes=self.num_classes,
            merge=merge,
            single_logit=single_logit,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, besides the model, its optimiser and scaler."""
        source = getattr(self.source, "state_dict", None)
        return {
            "steps": self.steps,
            "trainer": None if self.trainer is None else self.trainer.state_dict(),
            "source": None if source is None else source(),
            "held": self.updates and self.updates.held and tuple(self.updates.held),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, as if there had been no interruption."""
        self.steps = int(state["steps"])
        if (state["trainer"] is None) != (self.trainer is None):
            raise SegmendError("learner: the state is of another kind of context labels")
        if self.trainer is not None and self.updates is not None:
            self.trainer.load_state_dict(state["trainer"])
            self.updates.held = state["held"] and Samples(*state["held"])
        load = getattr(self.source, "load_state_dict", None)
        if load is not None:
            load(state["source"])
