"""Whole jobs on data sets: train from tags, draw maps, make masks. The command adds only words."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.data.tags import TagFolder
from segmend.engine.options import pick_device
from segmend.engine.progress import track
from segmend.engine.seeds import seed_everything
from segmend.engine.training import TrainResult, train_model
from segmend.errors import SegmendError
from segmend.tags.activation import Normalisation, background_score, normalise_cams
from segmend.tags.affinity_jobs import load_affinity
from segmend.tags.affinity_network import AffinityNet, IRNet, Walk
from segmend.tags.cam_files import CamFile, read_cams, write_cams
from segmend.tags.classifier_files import (
    TAGGER,
    LoadedClassifier,
    describe_classifier,
    load_classifier,
)
from segmend.tags.inference import image_maps
from segmend.tags.network import TagClassifier, build_classifier
from segmend.tags.options import CamOptions, MaskOptions, TagOptions
from segmend.tags.pseudo_masks import Background, BackgroundPower, PseudoMask, pseudo_mask
from segmend.tags.task import TagCrops, TaggedItems, TagTask


def train_tags(
    options: TagOptions,
    items: TagFolder,
    out: Path,
    *,
    val: TagFolder | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a classifier from tags; with `options.tagger`, a plain one first, which it starts from.

    The add-on losses sharpen maps at the expense of classification: on our trial set the mean
    average precision of tags fell from 88 to 79. So the plain network is kept for tags, in
    `out`/tagger, and the other one draws the maps.

    Raises:
        SegmendError: as in `train_model` and `build_classifier`; classes that differ between the
            two sets.
    """
    if val is not None and val.classes != items.classes:
        raise SegmendError(
            f"classes: the validation set has {list(val.classes)}, the training set "
            f"{list(items.classes)}"
        )

    def fit(options: TagOptions, out: Path, start: TagClassifier | None, what: str) -> TrainResult:
        seed_everything(options.seed)
        model = build_classifier(
            options.backbone,
            num_classes=items.num_tags,
            output_stride=options.output_stride,
            weights=options.weights,
            method=options.method,
        )
        if start is not None:
            model.load_state_dict(start.state_dict(), strict=False)  # SEAM has more parts
        describe_classifier(out, model.classifier_spec, items.classes, items.background)
        return train_model(
            model,
            TaggedItems(items),
            None if val is None else TaggedItems(val),
            options=options,
            out=out,
            make_task=partial(TagTask, background=items.background),
            make_crops=TagCrops,
            resume=resume,
            progress=progress,
            description=f"training: {what}",
        )

    if not options.tagger:
        return fit(options, out, None, "maps")
    changes = {"method": "cam", "tagger": False, "isl_weight": 0.0, "fsl_weight": 0.0}
    plain = fit(options.model_copy(update=changes), out / TAGGER, None, "tags")
    return fit(options, out, load_classifier(plain.checkpoint).model, "maps")


def draw_cams(
    options: CamOptions,
    run: Path,
    items: TagFolder,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write an NPZ of activation maps for every image; maps of its tags alone.

    Args:
        run: what `train_tags` wrote. Where it holds two networks, the plain one gives the scores.
    Returns:
        The paths, in the items' order.
    Raises:
        SegmendError: another list of classes than the network was trained on; maps of NaN.
    """
    drawer = load_classifier(run)
    _same_classes(drawer, items, run)
    tagger = load_classifier(run / TAGGER).model if (run / TAGGER).exists() else None
    device = pick_device(options.accelerator)
    for model in (drawer.model, tagger):
        if model is not None:
            model.to(device).to(memory_format=torch.channels_last)
    paths = [out / f"{name}.npz" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    for index in track(todo, description="activation maps", enabled=progress):
        item = items[index]
        image = item["image"].to(device)
        maps, scores = image_maps(drawer.model, image, scales=options.scales, flip=options.flip)
        if tagger is not None:
            with torch.inference_mode():
                scores = tagger.read(image[None]).scores[0]
        size = (image.shape[1], image.shape[2])
        write_cams(paths[index], maps.cpu(), item["tags"], scores.cpu(), size)
    return paths


def make_masks(
    options: MaskOptions,
    cams: Path,
    items: TagFolder,
    out: Path,
    *,
    affinity: Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Write a pseudo-mask for every image: labels as an indexed PNG with VOC's colours.

    With `affinity`, what `train_affinity` wrote, the maps first take its random walk.
    With `options.write_confidence`, 16-bit PNG maps of the winning class's posterior go to
    `out`/confidence and masks to `out`/masks; else masks go to `out`.
    """
    folder = out / "masks" if options.write_confidence else out
    paths = [folder / f"{name}.png" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    network = None if affinity is None else load_affinity(affinity)
    for index in track(todo, description="pseudo-masks", enabled=progress):
        item = items[index]
        found = mask_of(
            options,
            read_cams(cams / f"{items.names[index]}.npz"),
            item["tags"],
            item["image"],
            background=items.background,
            affinity=network,
        )
        if options.write_confidence:
            target = out / "confidence" / f"{items.names[index]}.png"
            write_probabilities(target, found.confidence[None])
        write_mask(paths[index], found.labels, encoding="palette")
    return paths


def mask_of(
    options: MaskOptions,
    cams: CamFile,
    tags: Tensor,
    image: Tensor,
    *,
    background: int | None,
    affinity: AffinityNet | IRNet | None = None,
) -> PseudoMask:
    """One image's pseudo-mask by the settings of `segmend tags masks`."""
    score: Background = options.constant
    if options.power is not None:
        score = BackgroundPower(options.power)
    if background is None:
        score = None
    maps = cams.dense()
    normalise: Normalisation | None = options.normalisation
    if affinity is not None and bool((tags > 0.5).any()):
        maps, behind = walked(options, maps, tags, image, affinity, background=background)
        score = score if behind is None else behind
        normalise = None  # the walk's scores are of one scale, and stay comparable
    return pseudo_mask(
        maps,
        tags,
        image,
        background=score,
        normalise=normalise,
        refine=None if options.refine == "none" else options.refine,
        min_confidence=options.confidence,
        need_agreement=options.need_agreement,
    )


@torch.inference_mode()
def walked(
    options: MaskOptions,
    maps: Tensor,
    tags: Tensor,
    image: Tensor,
    affinity: AffinityNet | IRNet,
    *,
    background: int | None,
) -> tuple[Tensor, Tensor | None]:
    """Maps (C, h, w) in [0, 1] after an affinity network's random walk, at the same size.

    AffinityNet's walk takes the background along, as (1 - max)^`walk_power`, and gives its map,
    too. IRN's has none: a constant follows (published 0.25).
    """
    present = tags > 0.5
    scores = normalise_cams(maps[present][None], method="max")
    walk = Walk(options.walk_beta, options.walk_steps)
    behind: Tensor | None = None
    if isinstance(affinity, IRNet) or background is None:
        spread = affinity.spread(scores, image[None], walk)[0]
    else:
        first = background_score(scores, power=options.walk_power)[:, None]
        behind, *rest = affinity.spread(torch.cat([first, scores], 1), image[None], walk)[0]
        spread = torch.stack(rest)
    result = torch.zeros_like(maps)
    result[present] = spread.clamp(0, 1)
    return result, behind


def _same_classes(found: LoadedClassifier, items: TagFolder, run: Path) -> None:
    if found.classes != items.classes:
        raise SegmendError(
            f"{run}: trained on classes {list(found.classes)}, the data has {list(items.classes)}"
        )
