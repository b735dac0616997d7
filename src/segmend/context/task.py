"""Training with context labels inside the engine's loop: losses, validation, optimiser, state."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segmend.context.inference import image_logits
from segmend.context.learner import ContextLabelLearner
from segmend.context.merging import merge_background
from segmend.context.options import ContextOptions
from segmend.data.files import atomic_write
from segmend.engine.losses import segmentation_loss
from segmend.engine.task import SegmentationTask, learning_rate_factor, parameter_groups
from segmend.metrics.region import region_counts

GENERATOR = "generator.safetensors"


class ContextTask(SegmentationTask):
    """The learner's loss on crops; validation of whole images with their contexts merged.

    `model` has the contexts' channels, and is what the loop keeps; the generator of the last epoch
    is written beside it.
    """

    options: ContextOptions

    def __init__(
        self, model: nn.Module, options: ContextOptions, *, learner: ContextLabelLearner, out: Path
    ) -> None:
        super().__init__(model, options)
        self.learner = learner
        self.out = out

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch of `ContextCrops`."""
        loss = self.learner.loss(
            batch["pixels"],
            batch["labels"],
            distance=batch.get("distance"),
            maps=batch.get("maps"),
        )
        self._losses.append(loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.options.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        options = self.options
        target = batch["labels"]
        window = options.patch if target.ndim == 4 else None
        logits = image_logits(self.model, batch["pixels"][0], window=window)[None]
        merged = merge_background(
            logits.float(),
            num_context=options.num_context,
            num_classes=options.num_classes,
            merge=options.merge,
        )
        loss = segmentation_loss(merged, target, loss="ce", ignore_index=options.ignore_index)
        counts = region_counts(
            merged.argmax(1).flatten(2),  # a volume is counted as one wide picture
            target.flatten(2),
            num_classes=options.num_classes,
            ignore_index=options.ignore_index,
        ).sum(0)[1:]
        self._counts = counts if self._counts is None else self._counts + counts
        self._val_losses.append(loss.detach())

    def finish_epoch(self) -> float:
        loss = super().finish_epoch()
        trainer = self.learner.trainer
        if trainer is not None and self.trainer.is_global_zero:
            labeller = trainer.generator if trainer.average is None else trainer.average
            write_generator(labeller, self.out)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        options = self.options
        groups = parameter_groups(self.model, options)
        optimizer: Optimizer
        if options.optimizer == "sgd":
            nesterov = options.momentum > 0
            optimizer = SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov)
        else:
            optimizer = AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
        self.learner.optimizer = optimizer  # its learning rate is the virtual step's
        steps = int(self.trainer.estimated_stepping_batches)
        factor = partial(learning_rate_factor, steps=steps, schedule=options.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["learner"] = self.learner.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.learner.load_state_dict(checkpoint["learner"])


def write_generator(generator: nn.Module, out: Path) -> None:
    """The generator's weights, for pictures; networks are used without it."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
    with atomic_write(out / GENERATOR) as temporary:
        temporary.write_bytes(save(state))
