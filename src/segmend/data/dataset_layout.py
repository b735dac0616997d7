"""Which files a folder holds, by the layouts that segmend reads; nothing is opened but lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

from segmend.data.images import IMAGE_SUFFIXES
from segmend.data.masks import MASK_SUFFIXES
from segmend.data.matching import match_folders, natural_key
from segmend.data.tag_files import image_key
from segmend.data.tag_table import tag_classes
from segmend.data.voc import read_split, voc_classes
from segmend.errors import SegmendError

_TAG_FILES = ("tags.json", "tags.csv", "tags.tsv")
_TRAIN, _HELD_OUT = ("train", "train_aug", "trainaug"), ("val", "test")
Finding = tuple[Literal["error", "warning"], str, str]  # level, kind, text


@dataclass
class DatasetLayout:
    """What was found: names to files, and the problems met on the way as (level, kind, text).

    need_masks: names of images that ought to have a mask.
    """

    kind: str
    images: dict[str, Path]
    masks: dict[str, Path] = field(default_factory=dict)
    need_masks: list[str] = field(default_factory=list)
    tags: Path | None = None
    classes: tuple[str, ...] = ()
    problems: list[Finding] = field(default_factory=list)


def find_layout(
    root: Path,
    *,
    images: str | Path | None,
    masks: str | Path | None,
    tags: str | Path | None,
    classes: Sequence[str] | str | Path | None,
    labels: str,
) -> DatasetLayout:
    """Recognise the layout below `root`; arguments as in `check_dataset`."""
    if not root.is_dir():
        raise SegmendError(f"{root}: no such folder")
    voc = images is None and (root / "JPEGImages").is_dir()
    layout = _voc(root, labels) if voc else _plain(root, images, masks)
    if tags is not None:
        layout.tags = Path(tags)
    else:
        layout.tags = _first([home / name for home, name in _tag_places(root, labels, voc=voc)])
        if layout.tags is None and voc and (root / "Annotations").is_dir():
            layout.tags = root / "Annotations"
    try:
        layout.classes = _classes(root, classes, labels, voc=voc)
    except SegmendError as error:
        layout.problems.append(("error", "classes", str(error)))
    return layout


def _voc(root: Path, labels: str) -> DatasetLayout:
    layout = DatasetLayout("voc", {})
    layout.images = _files(layout, root / "JPEGImages", IMAGE_SUFFIXES)
    if (root / labels).is_dir():
        layout.masks = _files(layout, root / labels, MASK_SUFFIXES)
    if not layout.images:
        raise SegmendError(f"{root / 'JPEGImages'}: no image; want {', '.join(IMAGE_SUFFIXES)}")
    lists: dict[str, set[str]] = {}
    for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
        try:
            lists[path.stem] = set(read_split(root, path.stem)[0])
        except SegmendError as error:
            layout.problems.append(("error", "list", str(error)))
            continue
        for name in sorted(lists[path.stem] - layout.images.keys(), key=natural_key):
            layout.problems.append(("error", "list", f"{path}: {name!r} has no image"))
    listed = set().union(*lists.values()) if lists else set()
    layout.need_masks = sorted(listed, key=natural_key) if layout.masks else []
    for one, other in combinations(lists, 2):
        if {one, other} & set(_TRAIN) and {one, other} & set(_HELD_OUT):
            for name in sorted(lists[one] & lists[other], key=natural_key):
                text = f"{name}: in both {one}.txt and {other}.txt"
                layout.problems.append(("warning", "in both lists", text))
    return layout


def _plain(root: Path, images: str | Path | None, masks: str | Path | None) -> DatasetLayout:
    folder = Path(images) if images is not None else root
    if images is None and (root / "images").is_dir():
        folder = root / "images"
    if masks is None and images is None and (root / "masks").is_dir():
        masks = root / "masks"
    layout = DatasetLayout("folder of images", {})
    layout.images = _files(layout, folder, IMAGE_SUFFIXES, deep=True)
    if not layout.images:
        raise SegmendError(f"{folder}: no image; want {', '.join(IMAGE_SUFFIXES)}")
    if masks is not None:
        layout.kind = "images and masks"
        layout.masks = _files(layout, Path(masks), MASK_SUFFIXES, deep=True)
        layout.masks = _paired(folder, Path(masks), layout.masks)
        layout.need_masks = list(layout.images)
    return layout


def _paired(images: Path, masks: Path, found: dict[str, Path]) -> dict[str, Path]:
    """Masks under the names of their images: `a_mask.png` belongs to `a.jpg`."""
    try:
        matches = match_folders({"images": images, "masks": masks}, partial=True)
    except SegmendError:
        return found  # said elsewhere: no file, two of one name, or no partner at all
    renamed = {match.paths["masks"]: match.name for match in matches}
    partners = {match.paths["images"]: match.name for match in matches}
    stems = {
        name: image_key(path.relative_to(images).as_posix()) for path, name in partners.items()
    }
    return {stems.get(renamed.get(path, name), name): path for name, path in found.items()}


def _files(
    layout: DatasetLayout, folder: Path, suffixes: tuple[str, ...], *, deep: bool = False
) -> dict[str, Path]:
    """Name -> file; two files of one name are a problem, of which the first is kept."""
    if not folder.is_dir():
        raise SegmendError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for base, below, names in os.walk(folder):
        below[:] = sorted(n for n in below if deep and not n.startswith("."))
        for path in (Path(base, n) for n in sorted(names, key=natural_key)):
            if path.suffix.lower() not in suffixes or path.name.startswith("."):
                continue
            key = image_key(path.relative_to(folder).as_posix())
            if key in found:
                text = f"{path}: the same name as {found[key]}"
                layout.problems.append(("error", "same name", text))
            found.setdefault(key, path)
    return found


def _classes(
    root: Path, classes: Sequence[str] | str | Path | None, labels: str, *, voc: bool
) -> tuple[str, ...]:
    if classes is not None:
        return tag_classes(classes)
    if voc:
        return voc_classes(root, labels)
    homes = [
        home / name for home in (root, root.parent) for name in ("classes.json", "classes.txt")
    ]
    path = _first(homes)
    return () if path is None else tag_classes(path)


def _tag_places(root: Path, labels: str, *, voc: bool) -> list[tuple[Path, str]]:
    if voc and labels == "SegmentationAll":
        return [(root, "tags_all.json")]
    homes = (root,) if voc else (root, root.parent)
    return [(home, name) for home in homes for name in _TAG_FILES]


def _first(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
