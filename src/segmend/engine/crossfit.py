"""Cross-fitting: for every training image a map from a model that has never seen it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from segmend.data.files import write_json
from segmend.engine.crops import ItemSet, cached
from segmend.engine.options import TrainOptions
from segmend.engine.prediction import Part, names_of, predict_folder
from segmend.engine.seeds import derive_seed, seed_everything
from segmend.engine.training import TrainResult, train_segmenter
from segmend.errors import SegmendError

FOLDS = "folds.json"
OUT_OF_FOLD = "out_of_fold"


@dataclass(frozen=True)
class CrossFitResult:
    """`out_of_fold`: the folder of honest maps; `fold_of`: image name → the fold whose model made
    its map; `final`: the model trained on all images, None if it was not asked for."""

    out_of_fold: Path
    fold_of: dict[str, int]
    final: TrainResult | None


def cross_fit(
    build_model: Callable[[], nn.Module],
    dataset: ItemSet,
    *,
    folds: int = 5,
    options: TrainOptions | None = None,
    out: str | Path,
    seed: int = 0,
    val_set: ItemSet | None = None,
    final: bool = True,
    suffix: str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> CrossFitResult:
    """Train one model a fold on all other folds, and write each image's map with the model that
    has not seen it.

    A refiner fitted on the maps of a base's own training images would learn from errors that are
    too small; out-of-fold maps show the errors of unseen images.

    Args:
        build_model: makes a fresh model; called once a fold, with the seeds set.
        dataset: items dict(name, image, target), as for `train_segmenter`; names are unique.
        folds: K, from 2 to the number of images.
        options: as for `train_segmenter`. The fold models train for all epochs and keep the last
            one: choosing an epoch by the held-out images would leak them.
        out: folder for `folds.json`, `fold_0` … (models), `out_of_fold` (maps), and the model
            trained on all images at the top.
        seed: which images share a fold; also of the folds' training.
        val_set: for the final model alone.
        final: also train the model on all images.
        suffix, resume, progress: as in `predict_folder`; a finished fold is not trained again.
    Raises:
        SegmendError: a number of folds that does not fit, names that occur twice, or (with
            `resume`) an `out` that holds another division of the images.
    """
    options = options or TrainOptions()
    out = Path(out)
    if final and val_set is None and options.patience is not None:
        raise SegmendError(
            "patience: stopping early wants a val_set, got none; give one, or leave it out"
        )
    names = names_of(dataset)
    fold_of = assign_folds(names, folds=folds, seed=seed)
    _record(out / FOLDS, fold_of, folds=folds, seed=seed, resume=resume)
    dataset = cached(dataset, cache=options.cache, progress=progress)
    for fold in range(folds):
        held_out = [i for i, name in enumerate(names) if fold_of[name] == fold]
        others = [i for i, name in enumerate(names) if fold_of[name] != fold]
        fold_seed = derive_seed(seed, fold)
        fold_options = options.model_copy(
            update={"seed": fold_seed, "patience": None, "cache": False}
        )
        seed_everything(fold_seed)
        model = build_model()
        train_segmenter(
            model,
            Part(dataset, others),
            None,
            options=fold_options,
            out=out / f"fold_{fold}",
            resume=resume,
            progress=progress,
            description=f"fold {fold + 1}/{folds}",
        )
        predict_folder(
            model,
            Part(dataset, held_out),
            out / OUT_OF_FOLD,
            suffix=suffix,
            resume=resume,
            progress=progress,
            precision=options.precision,
        )
    result = None
    if final:
        seed_everything(options.seed)
        result = train_segmenter(
            build_model(),
            dataset,
            val_set,
            options=options,
            out=out,
            resume=resume,
            progress=progress,
            description="all images",
        )
    return CrossFitResult(out / OUT_OF_FOLD, fold_of, result)


def assign_folds(names: list[str], *, folds: int, seed: int) -> dict[str, int]:
    """A fold for each name: a seeded permutation, dealt out in turn, so sizes differ by 1 at most.

    Raises:
        SegmendError: fewer than 2 folds or more than images; a name that occurs twice.
    """
    if not 2 <= folds <= len(names):
        raise SegmendError(f"folds: want 2 to the number of images ({len(names)}), got {folds}")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SegmendError(f"names: want each once, got twice: {', '.join(twice[:5])}")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return {names[i]: turn % folds for turn, i in enumerate(order)}


def _record(path: Path, fold_of: dict[str, int], *, folds: int, seed: int, resume: bool) -> None:
    record = {"folds": folds, "seed": seed, "fold_of": fold_of}
    if resume and path.exists():
        try:
            old = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise SegmendError(f"{path}: not readable ({error}); choose another folder") from error
        if old != record:
            raise SegmendError(
                f"{path}: holds another division (other images, folds or seed); choose another "
                "folder, or start afresh with resume=False (--no-resume)"
            )
    write_json(path, record)
