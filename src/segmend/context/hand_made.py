"""Context labels made by hand, anatomical ones for example: a folder of them beside a set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.folders import check_same_size
from segmend.data.masks import read_mask
from segmend.data.matching import match_folders
from segmend.data.nifti import Volume, check_same_grid, read_labels
from segmend.data.volumes import resampled_labels, volumes_by_name
from segmend.engine.crops import Item, ItemSet
from segmend.engine.prediction import names_of
from segmend.errors import SegmendError

_SHOWN = 5
_UNUSED = 255


class HandMade(Dataset[Item]):
    """Items with the context labels that a folder holds for them, read when they are asked for.

    A file is called as its image is, and is a picture of labels or a NIfTI file on the image's
    grid. Items gain `context`, int64 of the target's size. What is counts on the background alone;
    there labels go from 0 to `num_context` - 1.

    Args:
        items: dict(name, image (C, H, W) or (C, H, W, D), target), and `affine`, `spacing` of
            volumes.
        folder: more files than items do no harm.
        ignore_index: of the targets; labels there do not count either.
    Raises:
        SegmendError: no such folder, an item without a file (named); and, when an item is read, a
            label out of range, another size or another place (named).
    """

    def __init__(
        self, items: ItemSet, folder: str | Path, *, num_context: int, ignore_index: int = 255
    ) -> None:
        self.items, self.num_context, self.ignore_index = items, num_context, ignore_index
        self.names = names_of(items)
        if len(items) and items[0]["image"].ndim == 4:
            self.files = volumes_by_name(Path(folder), "context maps")
        else:
            matches = match_folders({"context maps": folder})
            self.files = {match.name: match.paths["context maps"] for match in matches}
        lacking = [name for name in self.names if name not in self.files]
        if lacking:
            raise SegmendError(
                f"context maps: {folder}: no file for {len(lacking)} of {len(self.names)} images: "
                f"{', '.join(lacking[:_SHOWN])}; want one of the same name for each"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        path = self.files[item["name"]]
        labels = _volume(path, item) if item["image"].ndim == 4 else _picture(path, item)
        target = item["target"]
        outside = (labels >= self.num_context) & (target == 0) & (target != self.ignore_index)
        if bool(outside.any()):
            raise SegmendError(
                f"{path}: label {int(labels[outside][0])} on the background; want 0 to "
                f"{self.num_context - 1}, or more contexts (--context)"
            )
        return {**item, "context": labels}


def _picture(path: Path, item: Item) -> Tensor:
    labels = read_mask(path, num_classes=_UNUSED, ignore_index=_UNUSED, encoding="index")
    check_same_size(path, labels, Path(item["name"]), item["image"])
    return labels


def _volume(path: Path, item: Item) -> Tensor:
    """On the item's grid; a set that resamples its items says what they were on file."""
    found = read_labels(path)
    size = tuple(item["target"].shape)
    filed = tuple(item["original"].tolist()) if "original" in item else size
    spacing = item["spacing"] * torch.tensor(size) / torch.tensor(filed)
    image = Volume(torch.zeros(()).expand(1, *filed), item["affine"], spacing)
    check_same_grid(Path(item["name"]), image, path, found)
    return resampled_labels(found.voxels, size)
