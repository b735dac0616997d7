"""The Lightning side of training: one module for the steps, one callback that keeps results.

Imported only when training starts: Lightning takes a second to import.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segmend.data.files import atomic_write, write_json
from segmend.engine.checkpoints import save_segmenter
from segmend.engine.losses import segmentation_loss
from segmend.engine.options import TrainOptions
from segmend.engine.parallel import (
    ShardedBatches,
    gathered_losses,
    mean_over_processes,
    same_buffers,
    sum_over_processes,
)
from segmend.engine.progress import Bar
from segmend.engine.seeds import derive_seed
from segmend.errors import SegmendError
from segmend.metrics.region import iou, region_counts

LAST = "last.ckpt"
CURVE = "curve.json"
_POLY_POWER = 0.9  # DeepLab v2, Chen et al., TPAMI 2018
_WARM_UP = 0.1  # share of the steps in which one-cycle rises
_START = 1 / 25  # where it starts, as in torch's OneCycleLR


class SegmentationTask(L.LightningModule):
    """Loss, validation counts and optimiser of a base segmenter."""

    def __init__(self, model: nn.Module, options: TrainOptions) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.train_loss = 0.0
        self.validation: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._shares: list[float] = []
        self._val_losses: list[Tensor] = []
        self._counts: Tensor | None = None

    def images_of(self, batch: dict[str, Any]) -> Tensor:
        """A batch's images in the memory layout that the options ask for."""
        images: Tensor = batch["image"]
        if self.options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def _logits_and_loss(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        logits = self.model(self.images_of(batch))
        loss = self.options.loss_for(logits.shape[1])
        return logits, segmentation_loss(
            logits, batch["target"], loss=loss, ignore_index=self.options.ignore_index
        )

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        # Not in on_train_epoch_start: Lightning leaves that out in a resumed run's first epoch.
        if batch_idx == 0:
            # Dropout draws from the global generator: seeded by epoch, it can be resumed.
            rank = [self.global_rank] if self.global_rank else []
            torch.manual_seed(derive_seed(self.options.seed, self.current_epoch, *rank))
            self._losses, self._shares = [], []
        self._shares.append(self._share(batch_idx))

    def _share(self, batch_idx: int) -> float:
        """What this process's mean loss counts for: 1 where all have equally many images."""
        batches = getattr(self.trainer.train_dataloader, "batch_sampler", None)
        return batches.share(batch_idx) if isinstance(batches, ShardedBatches) else 1.0

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # Gradients are averaged over processes, whose parts of a batch may differ in size.
        share = self._shares[-1]
        super().backward(loss if share == 1.0 else loss * share, *args, **kwargs)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = self._logits_and_loss(batch)[1]
        self._losses.append(loss.detach())
        return loss

    def finish_epoch(self) -> float:
        """The epoch's mean training loss; SegmendError where it is not finite."""
        losses = torch.stack(self._losses)
        if len(self._shares) == len(losses):  # a method may have several losses a step
            losses = losses * losses.new_tensor(self._shares)
        self.train_loss = float(mean_over_processes(losses.mean()))
        if not math.isfinite(self.train_loss):
            raise SegmendError(
                f"training: the loss of epoch {self.current_epoch + 1} is {self.train_loss}; "
                "look for NaN in the images, or lower lr (now "
                f"{self.options.lr:g}) and run again"
            )
        return self.train_loss

    def on_validation_epoch_start(self) -> None:
        self._val_losses, self._counts = [], None

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits, loss = self._logits_and_loss(batch)
        binary = logits.shape[1] == 1
        labels = (logits[:, 0] > 0).long() if binary else logits.argmax(1)
        counts = region_counts(
            labels,
            batch["target"],
            num_classes=2 if binary else logits.shape[1],
            ignore_index=self.options.ignore_index,
        ).sum(0)
        counts = counts[1:] if binary else counts
        self._counts = counts if self._counts is None else self._counts + counts
        self._val_losses.append(loss.detach())

    def gather_validation(self) -> None:
        """Make every process know what all have seen."""
        self._val_losses = gathered_losses(self._val_losses)
        if self._counts is not None:
            self._counts = sum_over_processes(self._counts)

    def on_validation_epoch_end(self) -> None:
        assert self._counts is not None
        self.validation = {
            "val_loss": float(torch.stack(self._val_losses).mean()),
            "val_iou": float(iou(self._counts).nanmean()),
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        options = self.options
        groups = parameter_groups(self.model, options)
        optimizer: Optimizer
        if options.optimizer == "sgd":
            optimizer = SGD(groups, lr=options.lr, momentum=options.momentum)
        else:
            optimizer = AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        factor = partial(learning_rate_factor, steps=steps, schedule=options.schedule)
        scheduler = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def learning_rate_factor(step: int, *, steps: int, schedule: Literal["onecycle", "poly"]) -> float:
    """The learning rate at a step as a share of its peak.

    "onecycle" (Smith, arXiv:1708.07120; without its momentum cycle) rises from 1/25 over the
    first tenth and falls to nearly 0, both along half a cosine; "poly" falls from the start.
    """
    done = min(step / max(steps, 1), 1.0)
    if schedule == "poly":
        return float((1 - done) ** _POLY_POWER)
    if done < _WARM_UP:
        return _START + (1 - _START) * (1 - math.cos(math.pi * done / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2


def parameter_groups(model: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Encoder (a module called encoder or backbone) and the rest, each with its learning rate.

    Vectors (biases, norms) are not decayed.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            encoder = not {"encoder", "backbone"}.isdisjoint(name.split("."))
            groups.setdefault((encoder, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": options.lr * (options.encoder_lr_factor if encoder else 1.0),
            "weight_decay": options.weight_decay if decay else 0.0,
        }
        for (encoder, decay), parameters in groups.items()
    ]


class Keeper(L.Callback):
    """After every epoch: the curve, the best weights, a checkpoint to go on from, early stop."""

    def __init__(self, out: Path, options: TrainOptions, bar: Bar) -> None:
        self.out = out
        self.options = options
        self.bar = bar
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve, self.best = state_dict["curve"], state_dict["best"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.advance(len(self.curve) * int(trainer.num_training_batches))
        trainer.should_stop = self._out_of_patience()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._started = monotonic()

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.advance()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        same_buffers(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, SegmentationTask):  # before the module's own hook of this name
            pl_module.gather_validation()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": pl_module.finish_epoch(),
            **pl_module.validation,
            "seconds": round(monotonic() - self._started, 3),
        }
        self.curve.append(row)
        if is_better(row, self.best):
            self.best = row
            if trainer.is_global_zero:
                meta = {"options": self.options.model_dump(mode="json"), "metrics": row}
                save_segmenter(self.out, pl_module.model, meta)
        trainer.should_stop = self._out_of_patience()
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.out / LAST)  # writes nothing here, but takes part
            return
        write_json(self.out / CURVE, self.curve)
        self.bar.note(summary(row, self.options.epochs))
        with atomic_write(self.out / LAST) as temporary:
            trainer.save_checkpoint(temporary)

    def _out_of_patience(self) -> bool:
        patience = self.options.patience
        if patience is None or not self.curve:
            return False
        return bool(self.curve[-1]["epoch"] - self.best["epoch"] >= patience)


def is_better(row: dict[str, Any], best: dict[str, Any]) -> bool:
    """Higher validation IoU, then lower loss; without validation the later epoch is better."""
    return not best or "val_iou" not in row or _rank(row) > _rank(best)


def summary(row: dict[str, Any], epochs: int) -> str:
    """One line about an epoch."""
    text = f"epoch {row['epoch']}/{epochs}, loss {row['train_loss']:.3f}"
    return f"{text}, val IoU {100 * row['val_iou']:.1f}" if "val_iou" in row else text


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    score = row["val_iou"]
    return (0.0 if math.isnan(score) else score, -row["val_loss"])
