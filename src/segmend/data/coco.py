"""COCO instances as semantic masks and image tags: 80 classes and background."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.files import atomic_write, write_json, write_text
from segmend.data.folders import check_same_size
from segmend.data.images import read_image
from segmend.data.masks import read_mask, write_mask
from segmend.data.tag_files import write_tags
from segmend.data.voc import tags_of
from segmend.errors import SegmendError

Crowd = Literal["class", "ignore"]
IGNORE_INDEX = 255


class CocoFolder(Dataset[dict[str, Any]]):
    """COCO 2014 or 2017 as semantic segmentation; masks are painted when they are asked for.

    Objects are painted in the order of the annotation file, so that later ones cover earlier ones,
    as the published code of HFPL does. (It also rounds the corners of polygons down to whole
    pixels; here pycocotools fills them.)

    Items: `name` (stem of the image file), `image` (float32 (3, H, W) in [0, 1]), `target`
    (int64 (H, W)), `tags` (float32 {0, 1}, (C,): classes with a visible pixel, so that an object
    that is wholly covered has no tag).

    Args:
        images: folder of the images, such as `train2014`.
        annotations: `instances_*.json`.
        crowd: "class" paints crowd regions as their class, as HFPL does; "ignore" gives 255 to
            those of their pixels that no object covers, as others do. mIoU does not compare
            across that choice.
    Attributes:
        classes: "background", then the categories by rising category id (1..90 with gaps in
            COCO), which makes labels 1..80. names, num_classes, background, as in `VOCFolder`.
    Raises:
        SegmendError: pycocotools is not installed, files are missing or no COCO annotations,
            more than 254 categories (when built); another size than the annotations say, a
            segmentation that cannot be drawn (when an item is read).
    """

    background = 0

    def __init__(
        self, images: str | Path, annotations: str | Path, *, crowd: Crowd = "class"
    ) -> None:
        if crowd not in ("class", "ignore"):
            raise SegmendError(f"crowd: want 'class' or 'ignore', got {crowd!r}")
        self.root, self.annotations, self.crowd = Path(images), Path(annotations), crowd
        self._coco = _read_index(self.annotations)
        categories = sorted(self._coco.cats.values(), key=lambda category: category["id"])
        self.classes = ("background", *(str(category["name"]) for category in categories))
        self.num_classes = len(self.classes)
        self.ignore_index = IGNORE_INDEX
        self._labels = {category["id"]: i for i, category in enumerate(categories, start=1)}
        if self.num_classes > IGNORE_INDEX:
            raise SegmendError(f"{annotations}: {len(categories)} categories; want at most 254")
        self._records = [self._coco.imgs[key] for key in sorted(self._coco.imgs)]
        self.names = [Path(record["file_name"]).stem for record in self._records]
        _check_files(self.root, self._records)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, target = self.image_path(index), self.target(index)
        image = read_image(path)
        check_same_size(path, image, self.annotations, target)
        tags = self.tags(index, target=target)
        return {"name": self.names[index], "image": image, "target": target, "tags": tags}

    def image_path(self, index: int) -> Path:
        """The image's file."""
        return self.root / Path(self._records[index]["file_name"]).name

    def target(self, index: int) -> Tensor:
        """The mask alone, int64 (H, W)."""
        record = self._records[index]
        labels = np.zeros((record["height"], record["width"]), dtype=np.uint8)
        crowds = np.zeros_like(labels, dtype=bool)
        for annotation in self._coco.imgToAnns.get(record["id"], []):
            region = self._region(annotation)
            if region.shape != labels.shape:
                raise SegmendError(self._problem(annotation, f"its mask is {region.shape}"))
            if annotation.get("iscrowd") and self.crowd == "ignore":
                crowds |= region
            else:
                labels[region] = self._labels[annotation["category_id"]]
        labels[crowds & (labels == 0)] = IGNORE_INDEX
        return torch.from_numpy(labels.astype(np.int64))

    def tags(self, index: int, *, target: Tensor | None = None) -> Tensor:
        """The tags alone, float32 (C,); `target` spares painting the mask again."""
        shown = self.target(index) if target is None else target
        return tags_of(shown, num_classes=self.num_classes).float()

    def _region(self, annotation: dict[str, Any]) -> NDArray[np.bool_]:
        if annotation.get("category_id") not in self._labels:
            raise SegmendError(self._problem(annotation, "its category is not in the file"))
        if not annotation.get("segmentation"):
            raise SegmendError(self._problem(annotation, "it has no segmentation, a box alone"))
        try:
            return np.asarray(self._coco.annToMask(annotation), dtype=bool)
        except Exception as error:  # a C extension given a stranger's numbers
            raise SegmendError(self._problem(annotation, f"cannot be drawn ({error})")) from error

    def _problem(self, annotation: dict[str, Any], what: str) -> str:
        return (
            f"{self.annotations}: annotation {annotation.get('id')} of image "
            f"{annotation.get('image_id')}: {what}; correct or remove it"
        )


def write_coco(
    out: str | Path,
    images: str | Path,
    annotations: str | Path,
    *,
    split: str,
    crowd: Crowd = "class",
    on_image: Callable[[int, int], None] | None = None,
) -> Path:
    """Write one split of COCO in the VOC layout that `VOCFolder` and `TagFolder` read.

    JPEGImages (hard links to the images where the disk allows, else copies), SegmentationClass,
    ImageSets/Segmentation/<split>.txt, classes.json and tags.json; several splits may be written
    into one folder. Masks that are already there are kept, so that a run can be taken up again;
    the list is written last.

    Args:
        split: name of the list.
        on_image: called after each image with (images done, of how many).
    Raises:
        SegmendError: as in `CocoFolder`; `out` holds other classes, or masks painted with another
            choice of `crowd`.
    """
    data, out = CocoFolder(images, annotations, crowd=crowd), Path(out)
    description = {"classes": list(data.classes), "ignore_index": IGNORE_INDEX, "crowd": crowd}
    _agree(out / "classes.json", description)
    write_json(out / "classes.json", description)
    tags = _known_tags(out / "tags.json")
    for index, name in enumerate(data.names):
        mask = out / "SegmentationClass" / f"{name}.png"
        if not mask.is_file() or name not in tags:
            target = _painted(data, index, mask)
            shown = data.tags(index, target=target).nonzero().flatten().tolist()
            tags[name] = [data.classes[c + 1] for c in shown]
        _link(data.image_path(index), out / "JPEGImages" / data.image_path(index).name)
        if on_image is not None:
            on_image(index + 1, len(data))
    write_tags(out / "tags.json", tags)
    lines = "".join(f"{name}\n" for name in data.names)
    write_text(out / "ImageSets" / "Segmentation" / f"{split}.txt", lines)
    return out


def _painted(data: CocoFolder, index: int, path: Path) -> Tensor:
    """The mask at `path`, painted and written there if an earlier run has not."""
    if path.is_file():
        return read_mask(path, num_classes=data.num_classes, encoding="index")
    target = data.target(index)
    write_mask(path, target, encoding="palette")
    return target


def _read_index(path: Path) -> Any:
    """pycocotools' index of the file, without the lines that it prints."""
    if not path.is_file():
        raise SegmendError(f"{path}: no such file; want COCO's instances_*.json")
    try:
        index = import_module("pycocotools.coco").COCO
    except ImportError as error:
        raise SegmendError("COCO needs pycocotools: pip install 'segmend[coco]'") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = index(str(path))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise SegmendError(f"{path}: no COCO annotations ({type(error).__name__}: {error})") from (
            error
        )
    if not coco.imgs or not coco.cats:
        raise SegmendError(f"{path}: no images or no categories; want COCO's instances_*.json")
    return coco


def _check_files(folder: Path, records: list[dict[str, Any]]) -> None:
    if not folder.is_dir():
        raise SegmendError(f"{folder}: no such folder of images")
    there = {entry.name for entry in os.scandir(folder)}
    missing = [r["file_name"] for r in records if Path(r["file_name"]).name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise SegmendError(f"{folder}: {len(missing)} of {len(records)} images missing: {shown}")


def _agree(path: Path, description: dict[str, Any]) -> None:
    if path.is_file() and json.loads(path.read_text("utf-8")) != description:
        raise SegmendError(
            f"{path}: written with other classes or another choice of crowd; choose a new folder"
        )


def _known_tags(path: Path) -> dict[str, list[str]]:
    known: dict[str, list[str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return known


def _link(source: Path, to: Path) -> None:
    if to.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, to)
    except OSError:  # another disk, or none that links
        with atomic_write(to) as temporary:
            shutil.copyfile(source, temporary)
