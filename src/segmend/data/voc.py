"""Data sets in the PASCAL VOC 2012 layout: images, indexed masks, lists of names, image tags."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.folders import check_same_size
from segmend.data.images import IMAGE_SUFFIXES, read_image
from segmend.data.masks import MASK_SUFFIXES, read_mask
from segmend.errors import SegmendError

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
    "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class VOCFolder(Dataset[dict[str, Any]]):
    """A data set in the VOC layout; a file is read when it is asked for.

    `root/JPEGImages/ID.*`, `root/<labels>/ID.png` (class indices, `ignore_index` for void) and
    `root/ImageSets/Segmentation/<split>.txt`: one ID a line, or, as the lists of the augmented
    split have it, `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`. `labels` is by default the
    folder that such a list names, else "SegmentationClass". Class names come from
    `root/classes.json` if there is one, a list or {"classes": [...]}; with
    `labels="SegmentationAll"` from its "all_classes". Without that file they are VOC's 21.

    Items: `name` (str), `image` (float32 (3, H, W) in [0, 1]), `target` (int64 (H, W)).

    Attributes:
        classes: class names in label order; `num_classes` their number.
        labels: name of the folder of masks.
        background: 0 where the first class is called "background", else None: every pixel then
            belongs to a class that can be a tag.
        names: the IDs of the split, in the order of its list.
    Raises:
        SegmendError: no such split, an empty or doubled list, a line of neither form, files
            missing (when built); as in `read_image` and `read_mask`, or sizes that differ (when
            an item is read).
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        labels: str | None = None,
        ignore_index: int = 255,
    ) -> None:
        self.root = Path(root)
        self.names, listed = read_split(self.root, split)
        self.labels = labels or listed or "SegmentationClass"
        self.classes = voc_classes(self.root, self.labels)
        self.num_classes = len(self.classes)
        self.background = 0 if self.classes[0] == "background" else None
        self.ignore_index = ignore_index
        self._images = locate(self.root / "JPEGImages", self.names, IMAGE_SUFFIXES)
        self._masks = locate(self.root / self.labels, self.names, MASK_SUFFIXES)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = read_image(self._images[index]), self.target(index)
        check_same_size(self._images[index], image, self._masks[index], target)
        return {"name": self.names[index], "image": image, "target": target}

    def target(self, index: int) -> Tensor:
        """The mask alone, int64 (H, W)."""
        return read_mask(
            self._masks[index],
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            encoding="index",
        )

    def tags(self, index: int) -> Tensor:
        """Which classes the mask shows, int64 in {0, 1}: (num_classes - 1,) foreground classes in
        label order, or (num_classes,) where the data set has no background class."""
        target = self.target(index)
        return tags_of(
            target, num_classes=self.num_classes, background=self.background,
            ignore_index=self.ignore_index,
        )  # fmt: skip


def tags_of(
    target: Tensor, *, num_classes: int, background: int | None = 0, ignore_index: int = 255
) -> Tensor:
    """Image-level tags of a mask: int64 in {0, 1} per class, `background` left out if not None."""
    labels = target[target != ignore_index].flatten()
    present = (torch.bincount(labels, minlength=num_classes) > 0).long()
    if background is None:
        return present
    return torch.cat([present[:background], present[background + 1 :]])


def voc_classes(root: Path, labels: str) -> tuple[str, ...]:
    """Class names in label order, from where `VOCFolder` takes them."""
    path = root / "classes.json"
    if not path.is_file():
        return VOC_CLASSES
    key = "all_classes" if labels == "SegmentationAll" else "classes"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SegmendError(f"{path}: not JSON ({error})") from error
    names = content.get(key) if isinstance(content, dict) else content
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise SegmendError(f'{path}: want a list of class names, or {{"{key}": [names]}}')
    return tuple(names)


def read_split(root: Path, split: str) -> tuple[list[str], str | None]:
    """The IDs of `ImageSets/Segmentation/<split>.txt`, and the folder of masks if it names one.

    Raises:
        SegmendError: no such list, empty, an ID twice, a line that is neither an ID nor a pair of
            files, several folders of masks; with file and line.
    """
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise SegmendError(f"{path}: no such list; splits found in {folder}: {known}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SegmendError(f"{path}: not text in UTF-8 ({error})") from error
    seen: dict[str, int] = {}
    folders: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, labels = _split_line(f"{path}, line {number}", line.strip())
        if name in seen:
            raise SegmendError(
                f"{path}, line {number}: {name!r} is listed twice, first in line {seen[name]}; "
                "keep one"
            )
        seen[name] = number
        folders |= {labels} if labels else set()
    if not seen:
        raise SegmendError(f"{path}: the list is empty; want one image ID a line")
    if len(folders) > 1:
        raise SegmendError(f"{path}: names several folders of masks: {', '.join(sorted(folders))}")
    return list(seen), next(iter(folders), None)


def _split_line(where: str, line: str) -> tuple[str, str | None]:
    """(ID, folder of masks) of "ID" or "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png"."""
    parts = line.split()
    if "/" not in line:
        return line, None
    paths = [PurePosixPath(part) for part in parts]
    if len(paths) > 2 or any(len(p.relative_to(p.anchor).parts) < 2 for p in paths):
        raise SegmendError(
            f"{where}: want an image ID, or '/JPEGImages/ID.jpg /SegmentationClassAug/ID.png'; "
            f"got {line!r}"
        )
    if len(paths) == 2 and paths[0].stem != paths[1].stem:
        raise SegmendError(f"{where}: the image and the mask have different names: {line!r}")
    return paths[0].stem, paths[1].parent.name if len(paths) == 2 else None


def locate(folder: Path, names: list[str], suffixes: tuple[str, ...]) -> list[Path]:
    """The file of each name in `folder`; SegmendError where some are missing."""
    if not folder.is_dir():
        raise SegmendError(f"{folder}: no such folder; want the PASCAL VOC layout")
    known = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes}
    missing = [name for name in names if name not in known]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise SegmendError(f"{folder}: {len(missing)} of {len(names)} files missing: {shown}")
    return [known[name] for name in names]
