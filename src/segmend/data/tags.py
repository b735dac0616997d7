"""Data sets of images and image tags, with masks where there are some to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.folders import check_same_size
from segmend.data.images import IMAGE_SUFFIXES, read_image
from segmend.data.masks import MASK_SUFFIXES, read_mask
from segmend.data.matching import Match, match_folders, natural_key
from segmend.data.tag_files import TagRow, read_tag_rows
from segmend.data.tag_table import tag_classes, tag_table
from segmend.data.voc import locate, read_split, tags_of, voc_classes
from segmend.errors import SegmendError

__all__ = ["TagFolder"]


class TagFolder(Dataset[dict[str, Any]]):
    """Images with image-level tags; a file is read when it is asked for.

    Items: `name` (str), `image` (float32 (3, H, W) in [0, 1]), `tags` (float32 {0, 1}: (C,) over
    the classes without the background) and, where there are masks, `target` (int64 (H, W)). An
    image may have no tag.

    Args:
        root: a folder in the VOC layout (it has `JPEGImages`), or of images, subfolders included.
        tags: a file or folder as in `read_tag_rows`; "masks": the classes that each mask shows;
            "none": no image has any, as where a network is to tell them. None takes the first of
            these that is there: `tags.json` (`tags_all.json` for `labels="SegmentationAll"`),
            `tags.csv` in or beside the folder, masks, `Annotations`.
        classes: names in label order, a file of them (.json list, or text with one a line), or
            None: as in `VOCFolder`; in a folder of images those of a `classes.json` or
            `classes.txt` in or beside it, else "background" and all names in the tags, sorted.
        masks: folder of masks (indices); None: `root/<labels>` in the VOC layout, if it is there.
        split: VOC layout: name of the list to follow; None takes all images.
        labels: VOC layout: name of the folder of masks, see `VOCFolder`.
        with_masks: False leaves masks out, as for training on images that have none.
        partial: pass over images without a row in the tags, rows without an image, and images
            without a mask, instead of refusing them.
    Attributes:
        names, classes, num_classes, background: as in `VOCFolder`; `num_tags` is C.
    Raises:
        SegmendError: folders or files missing; an image without a row or a row without an image;
            a tag that is not among the classes; with file and, where known, line (when built).
            As in `read_image` and `read_mask`, or sizes that differ (when an item is read).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        tags: str | Path | None = None,
        classes: Sequence[str] | str | Path | None = None,
        masks: str | Path | None = None,
        split: str | None = None,
        labels: str | None = None,
        ignore_index: int = 255,
        with_masks: bool = True,
        partial: bool = False,
    ) -> None:
        self.root, self.ignore_index = Path(root), ignore_index
        self.labels = labels or "SegmentationClass"
        voc = (self.root / "JPEGImages").is_dir()
        if split is not None and not voc:
            raise SegmendError(f"{root}: split={split!r} needs the VOC layout (JPEGImages)")
        if split is not None and labels is None:
            self.labels = read_split(self.root, split)[1] or self.labels
        folder = self.root / self.labels if voc and masks is None else masks
        found = Path(folder) if folder is not None and (masks or Path(folder).is_dir()) else None
        source = self._tag_source(tags, found)
        found = found if with_masks or source == "masks" else None
        rows = [] if source in ("masks", "none") else read_tag_rows(source)
        names = self._class_names(classes, rows, voc=voc)
        self.classes = tuple(names)
        self.num_classes = len(self.classes)
        self.background = 0 if self.classes[0] == "background" else None
        self.num_tags = self.num_classes - (self.background is not None)
        matches, known = self._match(voc, split, found, partial)
        self._table: Tensor | None = None
        if source == "none":
            self._table = torch.zeros(len(matches), self.num_tags)
        elif source != "masks":
            self._table, kept = tag_table(
                rows, [m.name for m in matches], self.classes, also=known, source=source,
                background=self.background, partial=partial,
            )  # fmt: skip
            matches = [matches[i] for i in kept]
        self.matches = matches
        self.names = [match.name for match in matches]

    def __len__(self) -> int:
        return len(self.matches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        paths = self.matches[index].paths
        item: dict[str, Any] = {"name": self.names[index], "image": read_image(paths["images"])}
        if "masks" in paths:
            item["target"] = self.target(index)
            check_same_size(paths["images"], item["image"], paths["masks"], item["target"])
        item["tags"] = self.tags(index, target=item.get("target"))
        return item

    def target(self, index: int) -> Tensor:
        """The mask alone, int64 (H, W)."""
        return read_mask(
            self.matches[index].paths["masks"],
            num_classes=max(self.num_classes, 2),
            ignore_index=self.ignore_index,
            encoding="index",
        )

    def tags(self, index: int, *, target: Tensor | None = None) -> Tensor:
        """The tags alone, float32 (C,); `target` spares reading a mask again."""
        if self._table is not None:
            return self._table[index]
        present = tags_of(
            self.target(index) if target is None else target,
            num_classes=self.num_classes,
            background=self.background,
            ignore_index=self.ignore_index,
        )
        return present.float()

    def tag_table(self) -> Tensor:
        """The tags of all images, float32 (N, C); reads every mask where tags come from those."""
        if self._table is not None:
            return self._table
        rows = [self.tags(index) for index in range(len(self))]
        return torch.stack(rows) if rows else torch.zeros(0, self.num_tags)

    def _tag_source(self, tags: str | Path | None, masks: Path | None) -> Path | str:
        if tags == "masks":
            if masks is None:
                raise SegmendError(f"{self.root}: tags='masks' needs masks; none found")
            return "masks"
        if tags is not None:
            return "none" if tags == "none" else Path(tags)
        name = "tags_all.json" if self.labels == "SegmentationAll" else "tags.json"
        places = [self.root / name, self.root / "tags.csv", self.root.parent / "tags.csv"]
        places += [self.root.parent / name]
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            return found
        if masks is not None:
            return "masks"
        if (self.root / "Annotations").is_dir():
            return self.root / "Annotations"
        raise SegmendError(
            f"{self.root}: no tags found ({name}, tags.csv, masks or Annotations); name the file, "
            "or say tags='none' where a network is to tell them"
        )

    def _class_names(
        self, classes: Sequence[str] | str | Path | None, rows: list[TagRow], *, voc: bool
    ) -> tuple[str, ...]:
        if classes is not None:
            return tag_classes(classes)
        if voc:
            return voc_classes(self.root, self.labels)
        for home in (self.root, self.root.parent):
            for name in ("classes.json", "classes.txt"):
                if (home / name).is_file():
                    return tag_classes(home / name)
        found = {tag for row in rows for tag in row.tags}
        if not found or not all(isinstance(tag, str) for tag in found):
            raise SegmendError(
                f"{self.root}: the tags name no classes; give `classes` (a list of names, or a "
                "classes.txt with one a line)"
            )
        return tag_classes(["background", *sorted(str(tag) for tag in found)])

    def _match(
        self, voc: bool, split: str | None, masks: Path | None, partial: bool
    ) -> tuple[list[Match], set[str]]:
        """The items, and the names of all images there are: a list may leave some out."""
        if not voc:
            folders = {"images": self.root} | ({} if masks is None else {"masks": masks})
            matches = match_folders(folders, partial=partial)
            return matches, {match.name for match in matches}
        folder = self.root / "JPEGImages"
        known = {p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        listed = None if split is None else read_split(self.root, split)[0]
        names = sorted(known, key=natural_key) if listed is None else listed
        if masks is not None and partial:
            shown = {p.stem for p in masks.iterdir() if p.suffix.lower() in MASK_SUFFIXES}
            names = [name for name in names if name in shown]
        paths = {"images": locate(folder, names, IMAGE_SUFFIXES)}
        if masks is not None:
            try:
                paths["masks"] = locate(masks, names, MASK_SUFFIXES)
            except SegmendError as error:
                raise SegmendError(f"{error}; with_masks=False does without") from error
        rows = zip(*paths.values(), strict=True)
        return [
            Match(name, dict(zip(paths, row, strict=True)))
            for name, row in zip(names, rows, strict=True)
        ], known
