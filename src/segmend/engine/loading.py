"""Batches for training and validation, the same for the same seed, shared among processes."""

from __future__ import annotations

from functools import partial

from torch.utils.data import DataLoader, Dataset

from segmend.engine.crops import CropSet, EpochSampler, Item, ItemSet, collate
from segmend.engine.options import TrainOptions
from segmend.engine.parallel import ShardedBatches


def segmentation_crops(train_set: ItemSet, options: TrainOptions) -> CropSet:
    """Square crops of images and targets, flipped, turned and mildly recoloured."""
    return CropSet(
        train_set,
        crop=options.crop,
        augment=options.augment,
        ignore_index=options.ignore_index,
        seed=options.seed,
    )


def train_loader(
    crops: Dataset[Item], images: int, options: TrainOptions, *, rank: int = 0, count: int = 1
) -> DataLoader[Item]:
    """Shuffled batches of augmented crops, the same for the same seed and epoch.

    With `count` processes, what the `rank`-th has of each batch.
    """
    size = options.batch_size
    batches = ShardedBatches(
        EpochSampler(images, seed=options.seed),
        batch_size=size,
        # A last batch of one image breaks batch norm behind global pooling.
        drop_last=images > size and images % size == 1,
        rank=rank,
        world=count,
    )
    return DataLoader(
        crops,
        batch_sampler=batches,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        collate_fn=partial(collate, ignore_index=options.ignore_index),
    )


def val_loader(
    val_set: ItemSet, options: TrainOptions, *, rank: int = 0, count: int = 1
) -> DataLoader[Item]:
    """Whole images one by one, in order; of `count` processes each has its own."""
    return DataLoader(
        val_set,  # type: ignore[arg-type]  # torch wants its own base class, we any sequence
        batch_size=1,
        sampler=range(rank, len(val_set), count),
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        collate_fn=partial(collate, ignore_index=options.ignore_index),
    )
