"""Train a base segmenter on any set of images and masks; interrupt it, and it goes on later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from segmend.data.files import write_json
from segmend.engine.checkpoints import WEIGHTS_NAME, load_segmenter
from segmend.engine.crops import Item, ItemSet, cached
from segmend.engine.loading import segmentation_crops, train_loader, val_loader
from segmend.engine.options import TrainOptions, pick_device, resolve_precision
from segmend.engine.parallel import launch
from segmend.engine.progress import Bar, progress_bar
from segmend.engine.seeds import seed_everything
from segmend.engine.surroundings import interruptible, quiet, threads
from segmend.errors import SegmendError

if TYPE_CHECKING:
    from segmend.engine.task import SegmentationTask

__all__ = ["TrainOptions", "TrainResult", "segmentation_crops", "train_model", "train_segmenter"]

MakeTask = Callable[[nn.Module, Any], "SegmentationTask"]
MakeCrops = Callable[[ItemSet, Any], Dataset[Item]]

STATE = "train.json"
# What may change between the start of a run and its continuation: it does not change the result.
_FREE = {"cache", "num_workers", "threads", "accelerator", "devices"}


@dataclass(frozen=True)
class TrainResult:
    """What training left: `checkpoint` (the folder to give to `load_segmenter`), `curve` (one
    row an epoch: epoch, train_loss, val_loss, val_iou, seconds), `best` (the row that was kept)."""

    checkpoint: Path
    curve: list[dict[str, Any]]
    best: dict[str, Any]


def train_segmenter(
    model: nn.Module,
    train_set: ItemSet,
    val_set: ItemSet | None,
    *,
    options: TrainOptions | None = None,
    out: str | Path,
    resume: bool = True,
    progress: bool = True,
    description: str = "training",
) -> TrainResult:
    """Train with random crops, validate on whole images, keep the best epoch.

    Args:
        model: images (N, 3, H, W) in [0, 1] → logits (N, C, H, W); C = 1 is a binary problem.
            Trained in place: afterwards it holds the best weights, on the CPU, in eval mode.
        train_set, val_set: items dict(name, image (3, H, W), target (H, W)), sizes may differ.
            "Best" is the highest pooled IoU on `val_set` (threshold 0.5; several classes: mean
            over those present), at equal IoU the lower loss; without a `val_set`, the last epoch.
        options: None is `TrainOptions()`.
        out: folder for `model.safetensors`, `model.json` (the best weights), `curve.json`,
            `last.ckpt` (to go on from) and `train.json`. Nothing is written elsewhere.
        resume: go on where an interrupted run in `out` stopped, to the very weights that it
            would have reached uninterrupted (CPU); a finished run is only read back.
        progress, description: show a bar, and what it says is being done.
    Raises:
        SegmendError: an empty set, a loss that does not fit, a loss that is not finite, or
            (with `resume`) a run in `out` that had other options or another number of images.
    """

    return train_model(
        model,
        train_set,
        val_set,
        options=options or TrainOptions(),
        out=Path(out),
        make_task=_segmentation,
        make_crops=segmentation_crops,
        resume=resume,
        progress=progress,
        description=description,
    )


def _segmentation(model: nn.Module, options: TrainOptions) -> SegmentationTask:
    from segmend.engine.task import SegmentationTask

    return SegmentationTask(model, options)


def train_model(
    model: nn.Module,
    train_set: ItemSet,
    val_set: ItemSet | None,
    *,
    options: TrainOptions,
    out: Path,
    make_task: MakeTask,
    make_crops: MakeCrops,
    resume: bool = True,
    progress: bool = True,
    description: str = "training",
) -> TrainResult:
    """The loop behind `train_segmenter` and every method that trains with a loss of its own.

    Args:
        options: `TrainOptions` or a subclass with the method's own settings.
        make_task: (model, options) → the losses and the validation, a `SegmentationTask`.
        make_crops: (train_set, options) → augmented items; its index counts on over epochs, as
            that of `CropSet` does.
        The others, what is left in `out`, and errors: as in `train_segmenter`.
    """
    for role, items in (("train_set", train_set), ("val_set", val_set)):
        if items is not None and len(items) == 0:
            raise SegmendError(f"{role}: want at least one image, got none")
    if val_set is None and options.patience is not None:
        raise SegmendError("patience: stopping early wants a val_set, got none")
    if val_set is not None and len(val_set) < options.devices:
        raise SegmendError(f"val_set: want an image for each of {options.devices} devices")
    state = {"options": options.model_dump(mode="json"), "images": len(train_set)}
    if resume and _finished(out, state, type(options)):
        load_segmenter(out, model=model)
        return _read_result(out)
    write_json(out / STATE, {**state, "finished": False})
    if not resume:
        (out / "last.ckpt").unlink(missing_ok=True)
    fit = _Fit(
        model, train_set, val_set, options, out, make_task, make_crops, progress, description
    )
    if options.devices == 1:
        fit()
    else:
        launch(fit, options.devices, accelerator=pick_device(options.accelerator).type)
    load_segmenter(out, model=model.cpu())
    write_json(out / STATE, {**state, "finished": True})
    return _read_result(out)


@dataclass(frozen=True)
class _Fit:
    """One training, as each of the processes that share it gets it: called with (rank, count)."""

    model: nn.Module
    train_set: ItemSet
    val_set: ItemSet | None
    options: Any
    out: Path
    make_task: MakeTask
    make_crops: MakeCrops
    progress: bool
    description: str

    def __call__(self, rank: int = 0, count: int = 1) -> None:
        options, shown = self.options, self.progress and rank == 0
        train_set = cached(self.train_set, cache=options.cache, progress=shown)
        whole: DataLoader[Item] | None = None
        if self.val_set is not None:
            val_set = cached(self.val_set, cache=options.cache, progress=shown)
            whole = val_loader(val_set, options, rank=rank, count=count)
        crops = self.make_crops(train_set, options)
        batches = train_loader(crops, len(train_set), options, rank=rank, count=count)
        with quiet(), threads(options.threads):
            freeze(self.model, options.freeze)
            bar = partial(progress_bar, self.description, enabled=shown)
            _fit(self.make_task(self.model, options), batches, whole, options, self.out, bar)


def _fit(
    task: SegmentationTask,
    batches: DataLoader[Item],
    val_batches: DataLoader[Item] | None,
    options: TrainOptions,
    out: Path,
    make_bar: Callable[..., AbstractContextManager[Bar]],
) -> None:
    import lightning.pytorch as L
    from lightning.pytorch.strategies import DDPStrategy

    from segmend.engine.task import LAST, Keeper

    seed_everything(options.seed)
    task.model.train()
    if options.channels_last:
        task.model.to(memory_format=torch.channels_last)
    device = pick_device(options.accelerator)
    # Buffers are exchanged before validation: else all would have to take equally many steps there.
    ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    with make_bar(total=options.epochs * len(batches)) as bar:
        trainer = L.Trainer(
            max_epochs=options.epochs,
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=options.devices,
            strategy=ddp if options.devices > 1 else "auto",
            use_distributed_sampler=False,
            sync_batchnorm=options.devices > 1 and device.type == "cuda",
            precision=resolve_precision(options.precision, device),
            callbacks=[Keeper(out, options, bar)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=out,
        )
        last = out / LAST
        with interruptible():
            trainer.fit(
                task,
                batches,
                val_batches,
                ckpt_path=last if last.exists() else None,
                weights_only=True,
            )


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Leave the weights of these modules as they are; SegmendError where there is none."""
    for name in names:
        found = [p for key, p in model.named_parameters() if f"{key}.".startswith(f"{name}.")]
        if not found:
            known = ", ".join(
                sorted({k.rpartition(".")[0] for k, _ in model.named_parameters()})[:8]
            )
            raise SegmendError(f"freeze: no module {name!r} with weights; some are {known}")
        for parameter in found:
            parameter.requires_grad_(False)


def _finished(out: Path, state: dict[str, Any], kind: type[TrainOptions]) -> bool:
    """Whether `out` holds this very run, complete; SegmendError where it holds another one."""
    path = out / STATE
    if not path.exists():
        return False
    try:
        old = json.loads(path.read_text("utf-8"))
        options, images = old["options"], old["images"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SegmendError(f"{path}: not readable ({error}); choose another folder") from error
    wanted = {**state["options"], "images": state["images"]}
    defaults = {key: field.get_default() for key, field in kind.model_fields.items()}
    found = {**defaults, **options, "images": images}  # an older run knows fewer options
    changed = [
        f"{key} was {found.get(key)!r}, now {value!r}"
        for key, value in wanted.items()
        if key not in _FREE and found.get(key) != value
    ]
    if changed:
        raise SegmendError(
            f"{out}: holds a run with other options ({'; '.join(changed)}); choose another "
            "folder, or start afresh with resume=False (--no-resume)"
        )
    return bool(old.get("finished")) and (out / WEIGHTS_NAME).exists()


def _read_result(out: Path) -> TrainResult:
    curve = json.loads((out / "curve.json").read_text("utf-8"))
    best = json.loads((out / "model.json").read_text("utf-8"))["metrics"]
    return TrainResult(checkpoint=out, curve=curve, best=best)
