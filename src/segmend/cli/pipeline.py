"""From tags to a segmenter's scores: the stages of two methods put together.

Imported only when a run is at hand. Rooms do not know each other: here the masks of
`segmend.tags` become what `segmend.rectify` learns from, and the CRF of the one ends the
predictions of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmend.cli.run_options import RunOptions, SegmenterPredictOptions
from segmend.data.files import write_json
from segmend.data.images import IMAGE_SUFFIXES, read_image
from segmend.data.matching import Match
from segmend.data.tags import TagFolder
from segmend.data.voc import locate, read_split
from segmend.engine.crops import ItemSet
from segmend.engine.progress import track
from segmend.rectify.jobs import predict_rectified, train_rectified
from segmend.tags.dense_crf import dense_crf
from segmend.tags.evaluation import TagScores, evaluate_masks
from segmend.tags.jobs import train_tags
from segmend.tags.pipeline import SCORES, Pipeline, run_stages, start_run
from segmend.tags.tag_source import tag_source

TRAIN = "train"


class SplitImages(Dataset[dict[str, Any]]):
    """The images alone of a list in the VOC layout: `name` and `image`, nothing else is read."""

    def __init__(self, root: Path, split: str) -> None:
        self.names, _ = read_split(root, split)
        paths = locate(root / "JPEGImages", self.names, IMAGE_SUFFIXES)
        pairs = zip(self.names, paths, strict=True)
        self.matches = [Match(name, {"images": path}) for name, path in pairs]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.matches[index].paths["images"]
        return {"name": self.names[index], "image": read_image(path)}


@dataclass(frozen=True)
class HeldOut:
    """Images to predict in the end: the list's name, and the same images with true masks."""

    split: str
    images: SplitImages
    truth: TagFolder | None


@dataclass(frozen=True)
class Run:
    """What `run_all` left.

    Attributes:
        made: maps and pseudo-masks.
        predicted: folders of the segmenter's masks by split.
        scores: by column of the table: "maps", "masks", "segmenter, SPLIT".
    """

    made: Pipeline
    predicted: dict[str, Path]
    scores: dict[str, TagScores]


def run_all(
    options: RunOptions,
    items: TagFolder,
    out: Path,
    *,
    truth: TagFolder | None = None,
    held_out: HeldOut | None = None,
    again: str | None = None,
    progress: bool = True,
) -> Run:
    """The stages of `run_pipeline`, then a segmenter from their masks, its predictions and scores.

    Arguments and errors as in `run_pipeline`; `held_out` is never learnt from.
    """
    start_run(out, options.stages(), items, again=again)
    made = run_stages(options, items, out, truth=truth, progress=progress)
    scores = dict(made.scores)
    predicted: dict[str, Path] = {}
    if options.segmenter is not None:
        train_rectified(
            options.segmenter, items, out / "segmenter", masks=made.masks,
            classifier=_start(options, items, out, progress=progress), progress=progress,
        )  # fmt: skip
        wanted: list[tuple[str, ItemSet, TagFolder | None]] = []
        if truth is not None and options.predict.train:
            wanted.append((TRAIN, items, truth))
        if held_out is not None:
            wanted.append((held_out.split, held_out.images, held_out.truth))
        for split, images, true in wanted:
            predicted[split] = out / "predict" / split
            _predict(options.predict, images, out, predicted[split], progress=progress)
            if true is not None:
                found = evaluate_masks(predicted[split], true, progress=progress)
                scores[f"segmenter, {split}"] = found
    if scores:
        write_scores(out / SCORES, scores, items)
    return Run(made, predicted, scores)


def refiner(options: SegmenterPredictOptions) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What `predict_rectified` does to probabilities: the dense CRF that the settings name."""
    return None if options.crf == "none" else partial(_crf, settings=options.crf)


def background_share(scores: TagScores, items: TagFolder, *, true: bool = False) -> float | None:
    """Share of scored pixels that are predicted (or truly) background; None without that class."""
    if items.background is None:
        return None
    hit, wrong, missed = scores.region.sum(0).double().unbind(-1)
    count = hit + (missed if true else wrong)
    return float(count[items.background] / count.sum())


def write_scores(path: Path, scores: dict[str, TagScores], items: TagFolder) -> None:
    """All columns of the table as JSON, those of the segmenter by split."""
    content: dict[str, Any] = {"classes": list(items.classes)}
    for column, found in scores.items():
        share = {"background_share": background_share(found, items)}
        stage, _, split = column.partition(", ")
        home = content.setdefault(stage, {}) if split else content
        home[split or stage] = {**found.summary(), **share}
    write_json(path, content)


def _start(options: RunOptions, items: TagFolder, out: Path, *, progress: bool) -> Path | None:
    """The run of a tag classifier that the segmenter starts from; None: from its own weights."""
    assert options.segmenter is not None
    if options.segmenter.start_from == "weights":
        return None
    if options.starter is None:
        return out / "net"
    train_tags(options.starter, items, out / "starter", progress=progress)
    return out / "starter"


def _predict(
    options: SegmenterPredictOptions, images: ItemSet, out: Path, to: Path, *, progress: bool
) -> None:
    tags = None
    if options.masking != "none" and options.tags_from == "classifier":
        tags = tag_probabilities(out / "net", images, progress=progress)
    predict_rectified(
        options, out / "segmenter", images, to, tags=tags, refine=refiner(options), masks=True,
        progress=progress,
    )  # fmt: skip


@torch.inference_mode()
def tag_probabilities(run: Path, images: ItemSet, *, progress: bool = True) -> Tensor:
    """Probabilities of tags (N, C), by the network of a run that tells tags."""
    found = tag_source("network", run)
    assert found is not None
    model = found.model.to(memory_format=torch.channels_last)
    rows = track(range(len(images)), description="telling tags", enabled=progress)
    return torch.stack([model.read(images[i]["image"][None]).scores[0].sigmoid() for i in rows])


def _crf(probs: Tensor, image: Tensor, *, settings: str) -> Tensor:
    # Sums of softmax values may pass 1 by a rounding.
    return dense_crf(probs.clamp(0, 1), image, settings=settings)
