"""Whole jobs on data sets: train with tags beside masks, predict. The command adds only words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.data.tags import TagFolder
from segmend.engine.crops import ItemSet
from segmend.engine.jobs import split_off
from segmend.engine.options import pick_device
from segmend.engine.progress import track
from segmend.engine.seeds import seed_everything
from segmend.engine.training import TrainResult, train_model
from segmend.errors import SegmendError
from segmend.rectify.files import describe_rectified, load_rectified, start_from_classifier
from segmend.rectify.inference import Refine, masked_reading, read_image_probabilities
from segmend.rectify.items import PseudoMasked
from segmend.rectify.network import RectifiedSegmenter, build_rectified
from segmend.rectify.options import RectifyOptions, RectifyPredictOptions


def train_rectified(
    options: RectifyOptions,
    items: TagFolder,
    out: Path,
    *,
    masks: Sequence[Path] | None = None,
    val: TagFolder | None = None,
    val_fraction: float = 0.0,
    classifier: Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a segmenter on masks or pseudo-masks, with the images' tags.

    Args:
        items: images with tags and masks; `ignore_index` marks pixels whose label is unsure.
        masks: a file for each item to learn from instead of the items' own masks.
        out: as in `train_segmenter`, and `rectified.json`.
        val: with true masks, to keep the best epoch; without, the last one is kept.
        val_fraction: without `val`: share of the items held out for it, scored on their masks.
        classifier: a run of `segmend tags train` to start from: its backbone, and its head as
            class and tag logits.
    Raises:
        SegmendError: as in `train_model`, `build_trunk` and `start_from_classifier`; items
            without masks, classes that differ between the two sets.
    """
    from segmend.rectify.task import RectifyCrops, RectifyTask, check_items

    if val is not None and val.classes != items.classes:
        raise SegmendError(
            f"classes: the validation set has {list(val.classes)}, the training set "
            f"{list(items.classes)}"
        )
    if masks is None and any("masks" not in match.paths for match in items.matches):
        raise SegmendError(f"{items.root}: has no masks; give a folder of masks or pseudo-masks")
    train_set: ItemSet = items if masks is None else PseudoMasked(items, masks)
    val_set: ItemSet | None = val
    tags = check_items(items, num_classes=items.num_classes, background=items.background)
    if val is None:
        train_set, val_set = split_off(train_set, fraction=val_fraction, seed=options.seed)
    seed_everything(options.seed)
    model = build_rectified(
        options.spec(items.num_classes, items.background),
        weights="none" if classifier is not None else options.weights,
        gate_strength=options.gate_strength,
        tag_weight=options.tag_weight,
    )
    if classifier is not None:
        start_from_classifier(model, classifier, classes=items.classes)
    describe_rectified(out, model, items.classes)

    def make_task(model: nn.Module, options: RectifyOptions) -> RectifyTask:
        return RectifyTask(cast(RectifiedSegmenter, model), options, tags=tags)

    return train_model(
        model,
        train_set,
        val_set,
        options=options,
        out=out,
        make_task=make_task,
        make_crops=RectifyCrops,
        resume=resume,
        progress=progress,
        description="training: segmenter",
    )


def train_rectified_folder(
    options: RectifyOptions,
    data: Path,
    out: Path,
    *,
    masks: Path | None = None,
    tags: Path | None = None,
    classes: Path | None = None,
    split: str | None = None,
    val_split: str | None = None,
    labels: str | None = None,
    val_fraction: float = 0.0,
    classifier: Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """`train_rectified` on a folder of images or a data set in the VOC layout.

    Args:
        data: as `root` of `TagFolder`.
        masks: folder of masks or pseudo-masks; None: those of the VOC layout.
        tags, classes, split, labels: as in `TagFolder`.
        val_split: VOC layout: validated on, with the true masks of the layout.
    """
    folder = partial(TagFolder, data, tags=tags, classes=classes, labels=labels)
    items = folder(masks=masks, split=split)
    val = None if val_split is None else folder(split=val_split)
    return train_rectified(
        options, items, out, val=val, val_fraction=val_fraction, classifier=classifier,
        resume=resume, progress=progress,
    )  # fmt: skip


def predict_rectified(
    options: RectifyPredictOptions,
    run: Path,
    items: ItemSet,
    out: Path,
    *,
    tags: Tensor | None = None,
    refine: Refine | None = None,
    masks: bool = False,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write each image's probabilities (.npz, as `segmend predict`), or with `masks` its labels.

    Args:
        run: what `train_rectified` wrote.
        items: with "name" and "image".
        tags: (N, C) to mask by, {0, 1} or probabilities; None takes the gate's, if the options
            ask for masking.
        refine: what is done to each image's probabilities before masking, such as a dense CRF.
    Returns:
        The paths, in the items' order.
    """
    from segmend.engine.prediction import names_of

    model = load_rectified(run).model.to(pick_device(options.accelerator))
    model = model.to(memory_format=torch.channels_last)
    names = names_of(items)
    if tags is not None and len(tags) != len(names):
        raise SegmendError(f"tags: want {len(names)} rows, one an image, got {len(tags)}")
    paths = [out / f"{name}{'.png' if masks else '.npz'}" for name in names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    for index in track(todo, description="predicting", enabled=progress):
        image = items[index]["image"].to(model.mean.device)
        reading = read_image_probabilities(model, image, options, refine=refine)
        own = None if tags is None else tags[index].to(image.device)
        probs, found = masked_reading(reading, options, background=model.spec.background, tags=own)
        if masks:
            write_mask(paths[index], found.cpu(), encoding="palette")
        else:
            write_probabilities(paths[index], probs.cpu())
    return paths
