"""Data sets in the layout of the Medical Segmentation Decathlon: dataset.json beside folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmend.data.nifti import stem_of
from segmend.data.volumes import Case
from segmend.errors import SegmendError


@dataclass(frozen=True)
class VolumeLayout:
    """What a data set's own description says.

    labels: names by number, background 0 first. modalities: names of the channels. training:
    cases with labels, by name. test: cases without.
    """

    root: Path
    name: str
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    training: tuple[Case, ...]
    test: tuple[Case, ...]


def read_decathlon(root: str | Path) -> VolumeLayout:
    """Read `root`/dataset.json of the Medical Segmentation Decathlon; volumes are not opened.

    Args:
        root: the folder with dataset.json, imagesTr, labelsTr (and imagesTs), or dataset.json.
    Raises:
        SegmendError: dataset.json is missing, damaged or lacks an entry; a file that it lists is
            not there (named); labels that are not numbered from 0 without a gap.
    Reference:
        Antonelli et al., Nature Communications 13 (2022) 4128.
    """
    path = description_of(root)
    content = read_description(path)
    home = path.parent
    try:
        modalities = numbered(path, "modality", content["modality"])
        labels = numbered(path, "labels", content["labels"])
        training = [
            Case(stem_of(Path(row["image"])), (home / row["image"],), home / row["label"])
            for row in content["training"]
        ]
        test = [_test_case(home, row) for row in content.get("test", [])]
    except (KeyError, TypeError, AttributeError) as error:
        raise SegmendError(
            f"{path}: want modality, labels and training (a list of image and label), {error} is "
            "missing or of another form"
        ) from error
    for case in (*training, *test):
        for file in (*case.images, *([case.label] if case.label else [])):
            if not file.is_file():
                raise SegmendError(f"{path}: lists {file}, which is not there")
    by_name = sorted(training, key=lambda case: case.name)
    name = str(content.get("name", home.name))
    return VolumeLayout(home, name, labels, modalities, tuple(by_name), tuple(test))


def description_of(root: str | Path) -> Path:
    """The path of dataset.json; SegmendError where there is none."""
    path = Path(root)
    path = path if path.name == "dataset.json" else path / "dataset.json"
    if not path.is_file():
        raise SegmendError(
            f"{path}: not found; want a folder with dataset.json, imagesTr and labelsTr"
        )
    return path


def read_description(path: Path) -> dict[str, Any]:
    """The content of dataset.json, an object."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SegmendError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise SegmendError(f"{path}: want an object of entries, found a {type(content).__name__}")
    return content


def numbered(path: Path, entry: str, names: dict[str, str]) -> tuple[str, ...]:
    """Names of a {"0": name, …} object in order of their numbers."""
    try:
        order = sorted(names, key=int)
        numbers = [int(key) for key in order]
    except (TypeError, ValueError) as error:
        raise SegmendError(f"{path}: {entry}: want {{number: name}}, found {names!r}") from error
    if numbers != list(range(len(numbers))) or not numbers:
        raise SegmendError(f"{path}: {entry}: want numbers from 0 without a gap, found {numbers}")
    return tuple(str(names[key]) for key in order)


def _test_case(home: Path, row: Any) -> Case:
    image = row if isinstance(row, str) else row["image"]
    return Case(stem_of(Path(image)), (home / image,))
