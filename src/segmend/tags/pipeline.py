"""All stages from tags to pseudo-masks in one go, each resumable, settings in one object."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
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
RECORD, SCORES = "stages.json", "scores.json"
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

    def of(self, stage: str) -> BaseModel | None:
        """One stage's settings; None where it is left out."""
        found: BaseModel | None = getattr(self, stage)
        return found

    def stages(self) -> dict[str, BaseModel | None]:
        """All stages in their order."""
        return {stage: self.of(stage) for stage in STAGES}


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
    start_run(out, options.stages(), items, again=again)
    made = run_stages(options, items, out, truth=truth, progress=progress)
    if made.scores:
        scores = {what: found.summary() for what, found in made.scores.items()}
        write_json(out / SCORES, {"classes": list(items.classes), **scores})
    return made


def run_stages(
    options: PipelineOptions,
    items: TagFolder,
    out: Path,
    *,
    truth: TagFolder | None = None,
    progress: bool = True,
) -> Pipeline:
    """The stages of `run_pipeline` in a folder that `start_run` has looked at."""
    if truth is not None and truth.names != items.names:
        raise SegmendError("truth: want the very images of items, in the same order")
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
    return Pipeline(cams, paths, scores)


def folder_of(stage: str) -> str:
    """Where a stage writes, inside the run's folder."""
    return "net" if stage == "train" else stage


def start_run(
    out: Path,
    stages: Mapping[str, BaseModel | None],
    items: TagFolder,
    *,
    again: str | None = None,
) -> None:
    """Refuse to go on with other settings, drop what is to be done again, and keep a record.

    Args:
        stages: in their order; None is left out. One that was left out may be added as long as
            nothing came after it.
        again: this stage and those after it are done afresh.
    Raises:
        SegmendError: a stage in `out` was done with other settings, or on other data; a folder of
            someone else's.
    """
    wanted = {s: None if o is None else o.model_dump(mode="json") for s, o in stages.items()}
    order = list(wanted)
    if again is not None and again not in order:
        raise SegmendError(f"again: want one of {', '.join(order)}, got {again!r}")
    found = _record(out)
    if found is None:
        _refuse_foreign(out, order)
    redone = order[order.index(again) :] if again is not None else []
    data = {"images": items.names, "classes": list(items.classes)}
    done: dict[str, Any] = {} if found is None else found["stages"]
    if found is not None and redone != order:
        if found.get("data") != data:
            raise SegmendError(
                f"{out}: holds a run on other images or classes; choose another folder, or do all "
                f"of it again (--again {order[0]})"
            )
        for number, stage in enumerate(order[: len(order) - len(redone)]):
            later = any(done.get(s) is not None for s in order[number + 1 :])
            _compare(out, stage, done.get(stage), wanted[stage], later=later)
    # Stages of a longer pipeline that this one does not know: they came after.
    unknown = [stage for stage in done if stage not in wanted]
    for stage in [*redone, *unknown] if redone else []:
        shutil.rmtree(out / folder_of(stage), ignore_errors=True)
    kept = {} if redone else {stage: done[stage] for stage in unknown}
    write_json(out / RECORD, {"stages": {**wanted, **kept}, "data": data})


def _refuse_foreign(out: Path, stages: list[str]) -> None:
    """Nothing is deleted, and nothing taken for a result, that this pipeline did not write."""
    there = [folder_of(stage) for stage in stages if (out / folder_of(stage)).exists()]
    if there:
        raise SegmendError(
            f"{out}: has {', '.join(there)}, but no {RECORD} of `segmend tags run`; choose another "
            "folder"
        )


def _compare(out: Path, stage: str, old: Any, new: Any, *, later: bool) -> None:
    """SegmendError where a stage was done with settings that change its result."""
    if old is None and not later:
        return
    if old is None or new is None:
        was, now = ("left out", "it is not") if old is None else ("done", "it is left out")
        changed = [] if old is new else [f"{stage} was {was}, now {now}"]
    else:
        changed = [
            f"{stage}.{key} was {old[key]!r}, now {value!r}"
            for key, value in new.items()
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
