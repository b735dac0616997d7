"""nnU-Net v2's raw data sets and its splits, so that its users need not convert anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmend.data.decathlon import VolumeLayout, description_of, numbered, read_description
from segmend.data.matching import natural_key
from segmend.data.nifti import VOLUME_SUFFIXES
from segmend.data.volumes import Case
from segmend.errors import SegmendError

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def read_nnunet(root: str | Path) -> VolumeLayout:
    """Read a raw data set of nnU-Net v2: DatasetNNN_NAME with dataset.json, imagesTr, labelsTr.

    Images are CASE_0000, CASE_0001, … one file a channel, labels CASE; the labels' entry in
    dataset.json is {name: number}. Volumes are not opened.

    Raises:
        SegmendError: a missing or damaged dataset.json; a file ending that is not NIfTI; labels
            made of regions (not supported); a case that lacks a modality, an image or a label
            (named); labels that are not numbered from 0 without a gap ("ignore" apart).
    Source:
        nnU-Net's documentation/dataset_format.md, version 2.
    """
    path = description_of(root)
    content = read_description(path)
    try:
        channels = numbered(path, "channel_names", content["channel_names"])
        labels = _labels(path, content["labels"])
        ending = str(content["file_ending"])
    except (KeyError, AttributeError) as error:
        raise SegmendError(
            f"{path}: want channel_names, labels and file_ending of nnU-Net v2, {error} is missing "
            "or of another form"
        ) from error
    if ending not in VOLUME_SUFFIXES:
        raise SegmendError(f"{path}: file_ending {ending!r}; want one of {VOLUME_SUFFIXES}")
    home = path.parent
    images = _channels(home / "imagesTr", ending, channels)
    truth = _files(home / "labelsTr", ending)
    lonely = sorted(images.keys() ^ truth.keys(), key=natural_key)
    if lonely:
        side = "label" if lonely[0] in images else "image"
        raise SegmendError(f"{home}: case {lonely[0]!r} has no {side} ({len(lonely)} such cases)")
    training = [Case(n, images[n], truth[n]) for n in sorted(images, key=natural_key)]
    unseen = home / "imagesTs"
    test = _channels(unseen, ending, channels) if unseen.is_dir() else {}
    cases = tuple(Case(n, test[n]) for n in sorted(test, key=natural_key))
    return VolumeLayout(home, home.name, labels, channels, tuple(training), cases)


def is_nnunet(root: str | Path) -> bool:
    """Whether dataset.json is of nnU-Net v2's kind, and not the Decathlon's."""
    return "channel_names" in read_description(description_of(root))


def ignored_label(root: str | Path) -> int | None:
    """The number of the label called "ignore", which nnU-Net leaves out of training."""
    labels = read_description(description_of(root)).get("labels", {})
    value = labels.get("ignore")
    return None if value is None else int(value)


def read_splits(
    path: str | Path, fold: int, cases: Sequence[Case]
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of a fold of nnU-Net's splits_final.json.

    Raises:
        SegmendError: a missing or damaged file, no such fold, a case that the set does not have.
    """
    path = Path(path)
    try:
        folds: Any = json.loads(path.read_text("utf-8"))
        sides = [[str(n) for n in folds[fold][side]] for side in ("train", "val")]
    except (OSError, ValueError) as error:
        raise SegmendError(f"{path}: not readable as JSON: {error}") from error
    except (IndexError, KeyError, TypeError) as error:
        count = len(folds) if isinstance(folds, list) else 0
        raise SegmendError(
            f"{path}: want a list of folds with train and val, and fold {fold} among its {count}"
        ) from error
    known = {case.name: case for case in cases}
    for name in (*sides[0], *sides[1]):
        if name not in known:
            raise SegmendError(f"{path}: fold {fold} names {name!r}, which the data set lacks")
    train, val = ([known[name] for name in side] for side in sides)
    return train, val


def _labels(path: Path, labels: dict[str, Any]) -> tuple[str, ...]:
    if any(isinstance(value, list) for value in labels.values()):
        raise SegmendError(f"{path}: labels: regions (lists of numbers) are not supported")
    plain = {str(value): name for name, value in labels.items() if name != "ignore"}
    return numbered(path, "labels", plain)


def _channels(folder: Path, ending: str, channels: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """Case -> its files in order of the channels, all of them there."""
    found: dict[str, dict[int, Path]] = {}
    for stem, path in _files(folder, ending).items():
        match = _CHANNEL.match(stem)
        if match is None:
            raise SegmendError(f"{path}: want a name like CASE_0000{ending}, channel at the end")
        found.setdefault(match["case"], {})[int(match["channel"])] = path
    for name, files in found.items():
        for number, channel in enumerate(channels):
            if number not in files:
                raise SegmendError(
                    f"{folder}: case {name!r} lacks modality {number} ({channel}): "
                    f"{name}_{number:04d}{ending} is not there"
                )
        if len(files) > len(channels):
            raise SegmendError(
                f"{folder}: case {name!r} has {len(files)} modalities, dataset.json names "
                f"{len(channels)}"
            )
    return {name: tuple(files[i] for i in range(len(channels))) for name, files in found.items()}


def _files(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise SegmendError(f"{folder}: not found; want a folder of {ending} files")
    paths = [p for p in sorted(folder.iterdir()) if p.name.endswith(ending)]
    found = {p.name[: -len(ending)]: p for p in paths if not p.name.startswith(".")}
    if not found:
        raise SegmendError(f"{folder}: holds no {ending} file")
    return found
