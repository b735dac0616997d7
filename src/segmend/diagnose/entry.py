"""The door of the room: measure, then judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from segmend.data.masks import Encoding
from segmend.diagnose.assemble import candidates_of
from segmend.diagnose.case import CaseSet
from segmend.diagnose.decompose import measure
from segmend.diagnose.options import DiagnoseOptions
from segmend.diagnose.reading import FolderCases, Maps, TensorCases
from segmend.diagnose.reading_volumes import VolumeCases, holds_volumes
from segmend.diagnose.result import Diagnosis
from segmend.errors import SegmendError

Source = Maps | str | Path
Tags = Tensor | Mapping[str, Sequence[str]] | str | Path


def diagnose(
    probs: Source | None,
    masks: Source,
    *,
    pred: Source | None = None,
    images: Source | None = None,
    tags: Tags | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    ignore_index: int = 255,
    encoding: Encoding = "auto",
    pred_encoding: Encoding = "auto",
    partial: bool = False,
    options: DiagnoseOptions | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Say what is systematically wrong with a model's masks, and what mending it would gain.

    Args:
        probs: probability maps: a tensor (N, C, H, W[, D]), (N, H, W[, D]) if binary, or a folder.
            None with `pred` alone.
        masks: the truth: integer labels (N, H, W[, D]), or a folder; one of NIfTI files holds
            volumes.
        pred: hard masks, where there are no maps, or where they are more than the maps' largest
            class.
        images: (N, 3, H, W) in [0, 1], or a folder: needed for the clusters of the background.
        tags: what each image may hold: {0, 1} (N, C - 1) over the foreground classes, or names by
            image, or their file (see `segmend.data.tag_files`); without tags, what its mask holds.
        classes: names in label order, background first.
        num_classes: background included; None: as `classes`, or as the maps have channels (of
            folders: 2).
        ignore_index: label of the truth that counts nowhere.
        encoding, pred_encoding: of files of masks; see `segmend.data.masks.read_mask`.
        partial: folders: pass over files without a partner.
        options: see `DiagnoseOptions`.
    Raises:
        SegmendError: tensors and folders mixed, or anything that `TensorCases`, `FolderCases` and
            `measure` refuse; with the file or the index.
    """
    options = options or DiagnoseOptions()
    count = num_classes if num_classes is not None or classes is None else len(classes)
    cases: CaseSet
    if isinstance(masks, (str, Path)):
        cases = open_folders(
            masks,
            probs=_folder("probs", probs),
            pred=_folder("pred", pred),
            images=_folder("images", images),
            num_classes=count or 2,
            ignore_index=ignore_index,
            threshold=options.threshold,
            tags=_named(tags),
            classes=classes,
            encoding=encoding,
            pred_encoding=pred_encoding,
            partial=partial,
        )
        source = str(probs if probs is not None else pred)
    else:
        cases = TensorCases(
            _maps("probs", probs),
            masks,
            pred=_maps("pred", pred),
            images=_maps("images", images),
            candidates=_candidates(tags, classes, len(masks), count),
            threshold=options.threshold,
            ignore_index=ignore_index,
            num_classes=count,
        )
        source = ""
    found = measure(cases, options=options, classes=classes, progress=progress, source=source)
    return judged(found)


def open_folders(
    masks: str | Path,
    *,
    probs: str | Path | None = None,
    pred: str | Path | None = None,
    images: str | Path | None = None,
    num_classes: int = 2,
    ignore_index: int = 255,
    threshold: float | None = None,
    tags: Mapping[str, Sequence[str]] | str | Path | None = None,
    classes: Sequence[str] | None = None,
    encoding: Encoding = "auto",
    pred_encoding: Encoding = "auto",
    partial: bool = False,
) -> FolderCases | VolumeCases:
    """`VolumeCases` where `masks` holds NIfTI files, else `FolderCases`; arguments as there."""
    if holds_volumes(masks):
        return VolumeCases(
            masks,
            probs=probs,
            pred=pred,
            images=images,
            num_classes=num_classes,
            ignore_index=ignore_index,
            threshold=threshold,
            tags=tags,
            classes=classes,
            partial=partial,
        )
    return FolderCases(
        masks,
        probs=probs,
        pred=pred,
        images=images,
        num_classes=num_classes,
        ignore_index=ignore_index,
        threshold=threshold,
        tags=tags,
        classes=classes,
        encoding=encoding,
        pred_encoding=pred_encoding,
        partial=partial,
    )


def judged(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with its verdict."""
    from segmend.diagnose.verdict import judge

    return replace(diagnosis, verdict=judge(diagnosis))


def _folder(name: str, value: Source | None) -> str | Path | None:
    if value is None or isinstance(value, (str, Path)):
        return value
    raise SegmendError(f"{name}: a tensor, but masks is a folder; give all as folders or tensors")


def _maps(name: str, value: Source | None) -> Maps | None:
    if isinstance(value, (str, Path)):
        raise SegmendError(f"{name}: a folder, but masks is a tensor; give all as one or the other")
    return value


def _named(tags: Tags | None) -> Mapping[str, Sequence[str]] | str | Path | None:
    if isinstance(tags, Tensor):
        raise SegmendError("tags: a tensor, but masks is a folder; give names by image, or a file")
    return tags


def _candidates(
    tags: Tags | None, classes: Sequence[str] | None, num_images: int, num_classes: int | None
) -> Maps | None:
    if tags is None:
        return None
    if isinstance(tags, Tensor):
        background = torch.ones_like(tags[:, :1])
        return torch.cat((background, tags), dim=1).bool()
    names = [str(index) for index in range(num_images)]
    return candidates_of(tags, names, classes, num_classes or 2)
