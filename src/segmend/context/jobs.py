"""Whole jobs: train with context labels on any set of images or volumes, and predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from segmend.context.baselines import ContextSource, build_baseline
from segmend.context.clusters import KMeansContext
from segmend.context.crops import ContextCrops, PreparedSet
from segmend.context.hand_made import HandMade
from segmend.context.learner import ContextLabelLearner
from segmend.context.networks import (
    ContextRun,
    build_context_network,
    build_generator,
    describe_run,
    is_context_run,
    load_context,
)
from segmend.context.options import ContextOptions
from segmend.context.sets import ContextSets, folder_sets, volume_sets
from segmend.engine.crops import CACHE_LIMIT, Item, ItemSet
from segmend.engine.training import TrainResult, train_model
from segmend.errors import SegmendError

__all__ = [
    "ContextRun",
    "is_context_run",
    "load_context",
    "run_context",
    "train_context",
]

CLUSTERED = 64
"""Items whose background k-means clusters, evenly spread over the set."""


def run_context(
    options: ContextOptions,
    images: Path,
    masks: Path | None,
    out: Path,
    *,
    val_images: Path | None = None,
    val_masks: Path | None = None,
    context_maps: Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train with context labels on folders or on a described data set.

    Args:
        images: a folder of pictures or of NIfTI volumes, with `masks`; or, without, the root of a
            data set with dataset.json (Medical Segmentation Decathlon, nnU-Net v2).
        val_images, val_masks: folders; without them a share of the cases, or the options' splits.
        context_maps: folder of the labels that the method "maps" learns; see `HandMade`.
        out, resume, progress, result: as in `train_context`.
    Raises:
        SegmendError: the method "maps" without a folder, or the reverse; as in `read_sets` and
            `train_context`.
    """
    check_maps([options.method], context_maps)
    sets = read_sets(
        options, images, masks, val_images=val_images, val_masks=val_masks,
        context_maps=context_maps,
    )  # fmt: skip
    return train_context(
        sets.train, sets.val, options=options, out=out, resume=resume, progress=progress
    )


def read_sets(
    options: ContextOptions,
    images: Path,
    masks: Path | None,
    *,
    val_images: Path | None = None,
    val_masks: Path | None = None,
    context_maps: Path | None = None,
) -> ContextSets:
    """Training, validation and test items of what `run_context` takes.

    Raises:
        SegmendError: one of two folders missing, no description, and as in the readers.
    """
    if context_maps is not None:
        sets = read_sets(options, images, masks, val_images=val_images, val_masks=val_masks)
        known = partial(
            HandMade,
            folder=context_maps,
            num_context=options.num_context,
            ignore_index=options.ignore_index,
        )
        test = None if sets.test is None else known(sets.test)
        return ContextSets(known(sets.train), sets.val, test)
    if (val_images is None) != (val_masks is None):
        raise SegmendError("val_images, val_masks: want both folders or neither")
    if masks is not None:
        return folder_sets(options, images, masks, val_images=val_images, val_masks=val_masks)
    if val_images is not None:
        raise SegmendError("val_images: with dataset.json the splits come from there or --set")
    return volume_sets(options, images)


def check_maps(methods: Sequence[str], context_maps: Path | None) -> None:
    """SegmendError where labels made by hand are wanted and not given, or the reverse."""
    if "maps" in methods and context_maps is None:
        raise SegmendError("method maps: wants --context-maps, a folder of context labels")
    if context_maps is not None and "maps" not in methods:
        raise SegmendError(f"--context-maps: are for method maps, got {', '.join(methods)}")


def train_context(
    train_items: ItemSet,
    val_items: ItemSet | None,
    *,
    options: ContextOptions,
    out: str | Path,
    resume: bool = True,
    progress: bool = True,
    description: str = "training",
) -> TrainResult:
    """Train a segmenter whose background is several classes; keep the best epoch.

    Args:
        train_items, val_items: dict(name, image (C, H, W) or (C, H, W, D), target of its size, and
            where known spacing (3,) in mm, context: labels made by hand). "Best" is the highest
            pooled IoU on `val_items`, whole, contexts merged; without them the last epoch is kept.
        options: see there.
        out: folder for weights (`model.safetensors`, with the contexts' channels), `context.json`,
            `generator.safetensors`, curve and checkpoint. `load_context` reads it.
        resume: go on where an interrupted run stopped, to the very weights that it would have
            reached uninterrupted (CPU); a finished run is only read back.
    Raises:
        SegmendError: an item whose shapes or labels do not fit (named), an unknown network, and as
            in `train_model`.
    """
    out = Path(out)
    if len(train_items) == 0:
        raise SegmendError("train_items: want at least one, got none")
    channels, axes = _shape_of(train_items[0])
    prepare = _preparing(options)
    train_set = prepare(train_items, length=options.crops_per_epoch)
    val_set = None if val_items is None else prepare(val_items)
    model = build_context_network(options, in_channels=channels, dimensions=axes)
    learner = build_learner(options, model, train_items, in_channels=channels, dimensions=axes)
    describe_if_new(out, options, resume=resume, in_channels=channels, dimensions=axes)

    def make_task(model: nn.Module, _: ContextOptions) -> nn.Module:
        from segmend.context.task import ContextTask

        return ContextTask(model, options, learner=learner, out=out)

    return train_model(
        model,
        train_set,
        val_set,
        options=options.model_copy(update={"cache": False}),  # PreparedSet keeps what it read
        out=out,
        make_task=make_task,  # type: ignore[arg-type]
        make_crops=partial(_crops, dimensions=axes),
        resume=resume,
        progress=progress,
        description=description,
    )


def _shape_of(item: Item) -> tuple[int, int]:
    """(channels, axes of size) of an item's image."""
    image = item["image"]
    if image.ndim not in (3, 4):
        raise SegmendError(
            f"{item['name']}: want image (C, H, W) or (C, H, W, D), got {tuple(image.shape)}"
        )
    return len(image), image.ndim - 1


def build_learner(
    options: ContextOptions,
    model: nn.Module,
    items: ItemSet,
    *,
    in_channels: int,
    dimensions: int,
) -> ContextLabelLearner:
    """The learner of these options, its k-means fitted on the items."""
    source: nn.Module | ContextSource
    if options.method == "learned" and options.num_context > 1:
        source = build_generator(options, in_channels=in_channels, dimensions=dimensions)
    else:
        name = "plain" if options.num_context == 1 else options.method
        source = build_baseline(
            name, num_context=options.num_context, width=options.ring, seed=options.seed
        )
    if isinstance(source, KMeansContext):
        step = max(1, len(items) // CLUSTERED)
        rows = (items[i] for i in range(0, len(items), step))
        source.fit({"image": r["image"][None], "target": r["target"][None]} for r in rows)
    return ContextLabelLearner(
        model,
        source,
        num_context=options.num_context,
        num_classes=options.num_classes,
        generator_lr=options.generator_lr,
        update_every=options.update_every,
        tau=options.tau,
        sigma=options.sigma,
        meta_batch=options.meta_batch,
        meta_samples=options.meta_samples,
        warm_up=options.warm_up,
        averaging=options.averaging,
        dice=options.dice,
        ignore_index=options.ignore_index,
    )


def describe_if_new(
    out: Path, options: ContextOptions, *, resume: bool, in_channels: int, dimensions: int
) -> None:
    """Describe the run, unless it is another one's folder: the loop is about to refuse that."""
    if not resume or not (out / "train.json").is_file():
        describe_run(out, options, in_channels=in_channels, dimensions=dimensions)


def _preparing(options: ContextOptions) -> Callable[..., PreparedSet]:
    distant = options.method in ("dilate", "bands") and options.num_context > 1
    masked = options.tau is not None and options.num_context > 1

    def prepare(items: ItemSet, length: int | None = None) -> PreparedSet:
        keep = options.cache
        if keep == "auto":
            keep = 4 * 3 * items[0]["image"].numel() * len(items) <= CACHE_LIMIT
        return PreparedSet(
            items,
            distance=distant or masked,
            keep=keep,
            num_classes=options.num_classes,
            ignore_index=options.ignore_index,
            length=length,
            empty_is_far=distant,
        )

    return prepare


def _crops(items: PreparedSet, options: ContextOptions, *, dimensions: int) -> ContextCrops:
    size: tuple[int, ...] = options.patch
    if dimensions == 2:
        size = (options.crop,) * 2 if options.crop else largest(items)
    return ContextCrops(
        items,
        crop=size,
        augment=options.augment,
        ignore_index=options.ignore_index,
        seed=options.seed,
    )


def largest(items: PreparedSet) -> tuple[int, ...]:
    """Sides that hold every item whole."""
    sizes = torch.tensor([items[i]["labels"].shape for i in range(len(items.items))])
    return tuple(sizes.amax(0).tolist())
