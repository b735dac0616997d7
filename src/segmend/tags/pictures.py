"""Pictures of activation maps and pseudo-masks, evenly picked from a set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.data.files import atomic_write
from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.plot import heat_overlay, label_overlay, panels
from segmend.tags.activation import normalise_cams
from segmend.tags.cam_files import CamFile, read_cams

PICTURE = "overlays.png"
COLUMNS = 3
"""Maps of one image that are shown at most."""


def picture_of_cams(cams: Path, items: TagFolder, *, shown: int) -> Path:
    """Image beside its maps, one panel a tag; written to `cams`/overlays.png."""
    lines = []
    for index in tagged(items, shown):
        image, file = items[index]["image"], read_cams(cams / f"{items.names[index]}.npz")
        line = [(image, items.names[index])]
        for place, cls in enumerate(file.classes.tolist()[:COLUMNS]):
            heat = _full(file, image)[0, place]
            line.append((heat_overlay(image, heat), class_name(items, cls)))
        lines.append(line)
    return _save(lines, ["image", "activation maps", *[""] * (COLUMNS - 1)], cams)


def picture_of_masks(
    cams: Path, masks: list[Path], items: TagFolder, out: Path, *, shown: int
) -> Path:
    """Image, strongest map, pseudo-mask and, where there is one, true mask."""
    lines = []
    for index in tagged(items, shown):
        item, file = items[index], read_cams(cams / f"{items.names[index]}.npz")
        image = item["image"]
        names = [class_name(items, c) for c in file.classes.tolist()]
        line = [(image, items.names[index])]
        if names:
            line.append((heat_overlay(image, _full(file, image)[0].amax(0)), ", ".join(names)))
        else:
            line.append((image, "no tags"))
        labels = read_mask(masks[index], num_classes=max(2, items.num_classes), encoding="index")
        line.append((_coloured(image, labels, items), ""))
        if "target" in item:
            line.append((_coloured(image, item["target"], items), ""))
        lines.append(line)
    return _save(lines, ["image", "activation map", "pseudo-mask", "truth"], out)


def tagged(items: TagFolder, shown: int) -> list[int]:
    """Up to `shown` images that have tags, evenly spread over the set; any, where none has."""
    rows = [i for i, tags in enumerate(items.tag_table()) if bool(tags.any())]
    rows = rows or list(range(len(items)))
    return [rows[i * len(rows) // min(shown, len(rows))] for i in range(min(shown, len(rows)))]


def class_name(items: TagFolder, cls: int) -> str:
    """Name of a class counted without the background."""
    return items.classes[cls + (items.background is not None)]


def _coloured(image: Tensor, labels: Tensor, items: TagFolder) -> Tensor:
    """Without a background every class gets a colour: 0 as well."""
    shift = 0 if items.background is not None else 1
    return label_overlay(image, torch.where(labels == 255, 255, labels + shift))


def _full(file: CamFile, image: Tensor) -> Tensor:
    """The file's maps at the image's size, each in [0, 1]: (1, P, H, W)."""
    size = (image.shape[1], image.shape[2])
    maps = F.interpolate(file.cams[None], size=size, mode="bilinear", align_corners=False)
    return normalise_cams(maps, method="max")


def _save(lines: list[list[tuple[Tensor, str]]], columns: list[str], folder: Path) -> Path:
    path = folder / PICTURE
    columns = columns[: max(map(len, lines), default=0)]  # no heading over what no image has
    with atomic_write(path) as temporary:
        panels(lines, columns).save(temporary)
    return path
