"""Whole jobs on data sets: train from tags, draw maps, make masks. The command adds only words."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import torch

from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.data.tags import TagFolder
from segmend.engine.options import pick_device
from segmend.engine.progress import track
from segmend.engine.seeds import seed_everything
from segmend.engine.training import TrainResult, train_model
from segmend.errors import SegmendError, SegmendWarning
from segmend.tags.activation import share_classes
from segmend.tags.affinity_jobs import AffinityOptions, load_affinity, suggest_labels
from segmend.tags.background_choice import settle_background
from segmend.tags.cam_files import read_cams, write_cams
from segmend.tags.class_confusion import warn_of_confused_classes
from segmend.tags.classifier_files import (
    TAGGER,
    LoadedClassifier,
    describe_classifier,
    load_classifier,
)
from segmend.tags.image_masks import mask_of
from segmend.tags.inference import image_maps
from segmend.tags.network import TagClassifier, build_classifier
from segmend.tags.options import CamOptions, MaskOptions, PlainTagOptions, TagOptions
from segmend.tags.tag_source import predicted_tags, tag_source
from segmend.tags.task import TagCrops, TaggedItems, TagTask

STUFF_FSL = 2.0
"""Largest weight of the similarity loss in its published form that helped maps of data without a
background class: of 2, 5 and 15 on MSRC's 21 classes. The competitive form bears 15 there."""

AUTO_SHARE = 0.5
"""Say of the plain network in data without a background class. On the val split of MSRC's 21
classes masks gained 2.0 points of mIoU by it (0.4 and 2.8 by cam++ with seeds 3 and 4, 1.4 and 3.2
by seam++); a second plain network beside a plain one gained 1.5. With a background an object's
outline is at stake, not the border between two classes: there they lost 0 and 0.4 (MSRC's objects)
and 0.4 (scenes)."""


def train_tags(
    options: TagOptions,
    items: TagFolder,
    out: Path,
    *,
    val: TagFolder | None = None,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a classifier from tags; with `options.tagger`, a plain one beside it.

    The add-on losses sharpen maps at the expense of classification: on our trial set the mean
    average precision of tags fell from 89 to 79. So a plain network is trained first and kept for
    tags, in `out`/tagger, and the other one draws the maps, from the start that
    `options.start_from_tagger` says; "auto": see `_starts_from_tagger`.

    AMN always has a plain one: its maps (`out`/seeds) suggest the labels (`out`/labels, by IRN's
    rule) that pixels are classified from.

    Warns where the data have no background class and the similarity loss weighs more than
    `STUFF_FSL` in another form than "competitive": maps of one image's classes then flood into
    each other.

    Raises:
        SegmendError: as in `train_model` and `build_classifier`; classes that differ between the
            two sets.
    """
    _warn_of_flooding(options, items)
    if val is not None and val.classes != items.classes:
        raise SegmendError(
            f"classes: the validation set has {list(val.classes)}, the training set "
            f"{list(items.classes)}"
        )
    fit = partial(_fit_network, items=items, val=val, resume=resume, progress=progress)
    if not options.tagger and options.method != "amn":
        return fit(options, out)
    plain = fit(plain_options(options), out / TAGGER)
    labels = None
    if options.method == "amn":
        maps = CamOptions(accelerator=options.accelerator)
        draw_cams(maps, out / TAGGER, items, out / "seeds", resume=resume, progress=progress)
        labels = suggest_labels(
            AffinityOptions(method="irn"), out / "seeds", items, out / "labels",
            resume=resume, progress=progress,
        )  # fmt: skip
    start = load_classifier(plain.checkpoint).model if _starts_from_tagger(options, items) else None
    return fit(options, out, start=start, labels=labels)


def _starts_from_tagger(options: TagOptions, items: TagFolder) -> bool:
    """What `options.start_from_tagger` comes to in these data.

    "auto": not where objects stand out from a background, since a plain network has settled on
    their most telling parts: on MSRC's objects maps by cam++ had 55 points of mIoU from there, 61
    from the weights it had started from (test, seed 0). Without a background every pixel has a
    class, and what the plain network knows of the classes keeps the similarity loss from mixing
    them up: on the val split of MSRC's 21 classes maps by cam++ gained 2.7 points (seeds 3 and 4:
    -0.2 and 5.5).
    """
    if options.start_from_tagger == "auto":
        return items.background is None
    return options.start_from_tagger


def _fit_network(
    options: TagOptions,
    out: Path,
    *,
    items: TagFolder,
    val: TagFolder | None,
    start: TagClassifier | None = None,
    labels: list[Path] | None = None,
    resume: bool,
    progress: bool,
) -> TrainResult:
    """Train one network; from the weights of `start` if given, else from its backbone's."""
    seed_everything(options.seed)
    model = build_classifier(
        options.backbone,
        num_classes=items.num_tags,
        output_stride=options.output_stride,
        weights=options.weights,
        method=options.method,
    )
    if start is not None:
        model.load_state_dict(start.state_dict(), strict=False)  # some methods have more parts
    describe_classifier(out, model.classifier_spec, items.classes, items.background)
    return train_model(
        model,
        TaggedItems(items, labels),
        None if val is None else TaggedItems(val),
        options=options,
        out=out,
        make_task=partial(TagTask, background=items.background),
        make_crops=TagCrops,
        resume=resume,
        progress=progress,
        description=f"training: {'tags' if out.name == TAGGER else 'maps'}",
    )


def plain_options(options: TagOptions) -> TagOptions:
    """The same training of a plain class activation map, whatever method and add-ons say."""
    return TagOptions(**options.model_dump(include=set(PlainTagOptions.model_fields)))


def _warn_of_flooding(options: TagOptions, items: TagFolder) -> None:
    floods = options.fsl_form != "competitive" and options.fsl_weight > STUFF_FSL
    if items.background is None and floods:
        warnings.warn(
            f"no background class in the data and fsl_weight {options.fsl_weight:g}: the maps of "
            "an image's classes are likely to flood into each other; fsl_form competitive, or a "
            f"weight of {STUFF_FSL:g}, suits such data better",
            SegmendWarning,
            stacklevel=3,
        )


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

    Tags are the data's, or those that a network tells (`options.tags_from`). Where the run holds
    two networks and the tags are the data's, warns as in `warn_of_confused_classes`.

    Args:
        run: what `train_tags` wrote. Where it holds two networks, the plain one gives the scores,
            and with `options.plain_share` has its say in the maps (`share_classes`).
    Returns:
        The paths, in the items' order.
    Raises:
        SegmendError: another list of classes than a network was trained on; maps of NaN; a
            `plain_share` of a run that holds one network; as in `gradient_maps`.
    """
    device = pick_device(options.accelerator)
    drawer = _ready(load_classifier(run), items, run, device)
    plain = run / TAGGER
    scorer = _ready(load_classifier(plain), items, plain, device) if plain.exists() else None
    share = _plain_share(options, items, run, scorer is not None)
    told = tag_source(options.tags_from, run)
    teller = None if told is None else _ready(told, items, options.tags_from, device)
    paths = [out / f"{name}.npz" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    both: list[tuple[torch.Tensor, ...]] = []  # scores of the two networks, and the tags
    draw = partial(image_maps, scales=options.scales, flip=options.flip, maps=options.maps)
    for index in track(todo, description="activation maps", enabled=progress):
        item = items[index]
        image, tags = item["image"].to(device), item["tags"]
        if teller is not None:
            tags = predicted_tags(teller, image, threshold=options.tag_threshold).cpu()
        maps, scores = draw(drawer, image, tags=tags)
        if scorer is not None:
            by_maps = scores
            with torch.inference_mode():
                scores = scorer.read(image[None]).scores[0]
            both.append((by_maps.cpu(), scores.cpu(), tags))
            if share > 0 and int(tags.sum()) > 1:
                plain_maps = draw(scorer, image, tags=tags).cams
                found = maps[None].cpu(), plain_maps[None].cpu()
                maps = share_classes(*found, tags[None], share=share)[0]
        size = (image.shape[1], image.shape[2])
        write_cams(paths[index], maps.cpu(), tags, scores.cpu(), size)
    if both and teller is None:
        warn_of_confused_classes(*map(torch.stack, zip(*both, strict=True)))
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

    A mask shows no other classes than those that the file of maps has: the tags it was drawn for.
    With `affinity`, what `train_affinity` wrote, the maps first take its random walk.
    A background score that `options` leave open is chosen first (`settle_background`).
    With `options.write_confidence`, 16-bit PNG maps of the winning class's posterior go to
    `out`/confidence and masks to `out`/masks; else masks go to `out`.
    """
    folder = out / "masks" if options.write_confidence else out
    paths = [folder / f"{name}.png" for name in items.names]
    todo = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    network = None
    if affinity is not None:
        network = load_affinity(affinity).to(memory_format=torch.channels_last)
    if todo:
        options = settle_background(
            options, cams, items, out, affinity=network, resume=resume, progress=progress
        )
    for index in track(todo, description="pseudo-masks", enabled=progress):
        file = read_cams(cams / f"{items.names[index]}.npz", num_tags=items.num_tags)
        image = items[index]["image"]
        found = mask_of(options, file, image, background=items.background, affinity=network)
        if options.write_confidence:
            target = out / "confidence" / f"{items.names[index]}.png"
            write_probabilities(target, found.confidence[None])
        write_mask(paths[index], found.labels, encoding="palette")
    return paths


def _plain_share(options: CamOptions, items: TagFolder, run: Path, two: bool) -> float:
    """What `options.plain_share` comes to in these data."""
    if options.plain_share == "auto":
        return AUTO_SHARE if two and items.background is None else 0.0
    if options.plain_share > 0 and not two:
        raise SegmendError(
            f"{run}: plain_share is {options.plain_share:g}, but the run holds one network; train "
            "it with tagger=true, or leave plain_share at 0"
        )
    return options.plain_share


def _ready(
    found: LoadedClassifier, items: TagFolder, origin: str | Path, device: torch.device
) -> TagClassifier:
    """A network on its device; SegmendError if it was trained on other classes."""
    if found.classes != items.classes:
        raise SegmendError(
            f"{origin}: trained on classes {list(found.classes)}, the data has "
            f"{list(items.classes)}"
        )
    return found.model.to(device).to(memory_format=torch.channels_last)
