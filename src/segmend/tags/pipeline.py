"""All stages from tags to pseudo-masks in one go, each resumable, settings in one object."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from segmend.data.files import write_json
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError
from segmend.tags.affinity_jobs import AffinityOptions, train_affinity
from segmend.tags.evaluation import TagScores, evaluate_cams, evaluate_masks
from segmend.tags.jobs import draw_cams, make_masks, train_tags
from segmend.tags.options import CamOptions, MaskOptions, TagOptions

Stage = Literal["train", "cams", "affinity", "masks"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RECORD = "stages.json"
# What may change between two runs in one folder: it does not change the result.
_FREE = {"cache", "num_workers", "threads", "accelerator", "devices"}


class PipelineOptions(BaseModel):
    """Settings of `segmend tags run`, a section a stage; without `affinity` that stage is left out.

    A section that is given needs to hold only what differs from the stage's own defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: TagOptions = Field(default_factory=TagOptions)
    cams: CamOptions = Field(default_factory=CamOptions)
    affinity: AffinityOptions | None = None
    masks: MaskOptions = Field(default_factory=MaskOptions)

    def of(self, stage: Stage) -> BaseModel | None:
        """One stage's settings; None where it is left out."""
        found: BaseModel | None = getattr(self, stage)
        return found


@dataclass(frozen=True)
class Pipeline:
    """What `run_pipeline` left.

    Attributes:
        cams: folder of the maps, one NPZ an image.
        masks: pseudo-masks in the images' order.
        scores: by "maps" and "masks"; empty without true masks. The maps' background constant is
            the best one on these very images.
    """

    cams: Path
    masks: list[Path]
    scores: dict[str, TagScores]


def run_pipeline(
    options: PipelineOptions,
    items: TagFolder,
    out: Path,
    *,
    truth: TagFolder | None = None,
    again: Stage | None = None,
    progress: bool = True,
) -> Pipeline:
    """Train, draw maps, learn affinities where asked for, make masks, and score what can be.

    What an earlier run in `out` finished is kept: `out`/net, `out`/cams, `out`/affinity and
    `out`/masks. True masks are only looked at to score.

    Args:
        items: images and tags.
        truth: the same images with true masks; None scores nothing.
        again: this stage and those after it are done afresh.
    Raises:
        SegmendError: as in the stages; a stage in `out` was done with other settings, or on other
            data.
    """
    if truth is not None and truth.names != items.names:
        raise SegmendError("truth: want the very images of items, in the same order")
    _start(options, items, out, again)
    net, cams, masks = (out / name for name in ("net", "cams", "masks"))
    train_tags(options.train, items, net, progress=progress)
    draw_cams(options.cams, net, items, cams, progress=progress)
    affinity = None
    if options.affinity is not None:
        affinity = out / "affinity"
        train_affinity(options.affinity, net, cams, items, affinity, progress=progress)
    paths = make_masks(options.masks, cams, items, masks, affinity=affinity, progress=progress)
    scores = {}
    if truth is not None:
        normalisation = options.masks.normalisation
        scores["maps"] = evaluate_cams(cams, truth, normalisation=normalisation, progress=progress)
        written = masks / "masks" if options.masks.write_confidence else masks
        scores["masks"] = evaluate_masks(written, truth, progress=progress)
        write_json(
            out / "scores.json",
            {
                "classes": list(items.classes),
                **{what: found.summary() for what, found in scores.items()},
            },
        )
    return Pipeline(cams, paths, scores)


def folder_of(stage: Stage) -> str:
    """Where a stage writes, inside the run's folder."""
    return "net" if stage == "train" else stage


def _start(options: PipelineOptions, items: TagFolder, out: Path, again: Stage | None) -> None:
    """Refuse to go on with other settings, drop what is to be done again, and keep a record."""
    wanted: dict[str, Any] = options.model_dump(mode="json")
    found = _record(out)
    if found is None:
        _refuse_foreign(out)
    redone = STAGES[STAGES.index(again) :] if again is not None else ()
    data = {"images": items.names, "classes": list(items.classes)}
    if found is not None and redone != STAGES:
        if found.get("data") != data:
            raise SegmendError(
                f"{out}: holds a run on other images or classes; choose another folder, or do all "
                "of it again (--again train)"
            )
        for stage in (s for s in STAGES if s not in redone):
            _compare(out, stage, found.get("stages", {}).get(stage), wanted[stage])
    for stage in redone:
        shutil.rmtree(out / folder_of(stage), ignore_errors=True)
    write_json(out / RECORD, {"stages": wanted, "data": data})


def _refuse_foreign(out: Path) -> None:
    """Nothing is deleted, and nothing taken for a result, that this pipeline did not write."""
    there = [folder_of(stage) for stage in STAGES if (out / folder_of(stage)).exists()]
    if there:
        raise SegmendError(
            f"{out}: has {', '.join(there)}, but no {RECORD} of `segmend tags run`; choose another "
            "folder"
        )


def _compare(out: Path, stage: Stage, old: Any, new: Any) -> None:
    """SegmendError where a stage was done with settings that change its result."""
    if (old is None) != (new is None):
        changed = [f"{stage} was {'left out' if old is None else 'done'}, now it is not"]
    else:
        changed = [
            f"{stage}.{key} was {old[key]!r}, now {value!r}"
            for key, value in (new or {}).items()
            if key in old and key not in _FREE and old[key] != value
        ]
    if changed:
        raise SegmendError(
            f"{out}: holds a run with other settings ({'; '.join(changed)}); choose another "
            f"folder, or do this stage and those after it again (--again {stage})"
        )


def _record(out: Path) -> dict[str, Any] | None:
    path = out / RECORD
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SegmendError(f"{path}: not readable ({error}); choose another folder") from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
        raise SegmendError(f"{path}: not the record of a run; choose another folder")
    return found
