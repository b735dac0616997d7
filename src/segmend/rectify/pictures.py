"""Pictures of what rectification changes: predictions with their out-of-candidate pixels marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError
from segmend.plot import label_overlay, panels
from segmend.rectify.candidates import candidates_of

STRIPE = 3
"""Width of the stripes, in pixels: no colour of a class can be taken for them."""


def picture_of_rectification(
    items: TagFolder, predictions: Mapping[str, Path], out: Path, *, shown: int = 6
) -> Path:
    """Image, truth, and each segmenter's prediction with its out-of-candidate pixels striped.

    Args:
        items: images with tags and true masks.
        predictions: heading → folder of predicted masks, indexed PNGs under the images' names;
            for instance {"plain": ..., "rectified": ...}.
        out: file to write, .png.
        shown: the images with most out-of-candidate pixels in the first prediction.
    Returns:
        `out`.
    Raises:
        SegmendError: no prediction, a file missing or of another size, items without masks.
    """
    if not predictions or shown < 1:
        raise SegmendError("predictions, shown: want one folder and one image or more")
    folders = list(predictions.values())
    lines = []
    for index in _worst(items, folders[0], shown):
        item = items[index]
        if "target" not in item:
            raise SegmendError(f"{items.root}: has no true masks to show")
        line = [
            (item["image"], items.names[index]),
            (_coloured(item["image"], item["target"], items), _classes(item["tags"], items)),
        ]
        for folder in folders:
            labels = _labels(items, index, folder)
            if labels.shape != item["target"].shape:
                raise SegmendError(
                    f"{folder / items.names[index]}.png: is {tuple(labels.shape)}, its image "
                    f"{tuple(item['target'].shape)}; want the same height and width"
                )
            wrong = _out_of_candidate(labels, item["tags"], items)
            picture = striped(_coloured(item["image"], labels, items), wrong)
            line.append((picture, f"{100 * float(wrong.float().mean()):.1f}% out of candidate"))
        lines.append(line)
    with atomic_write(out) as temporary:
        panels(lines, ["image", "truth", *predictions]).save(temporary)
    return out


def striped(picture: Tensor, where: Tensor) -> Tensor:
    """A picture (3, H, W) with black diagonals across it where the mask (H, W) is True."""
    height, width = where.shape
    diagonal = torch.arange(height)[:, None] + torch.arange(width)
    return picture.masked_fill(where & (diagonal // STRIPE % 2 == 0), 0)


def _worst(items: TagFolder, folder: Path, shown: int) -> list[int]:
    """Images with most out-of-candidate pixels, in the set's order."""
    shares = [
        float(_out_of_candidate(_labels(items, i, folder), items.tags(i), items).float().mean())
        for i in range(len(items))
    ]
    ranked = sorted(range(len(items)), key=lambda i: -shares[i])
    return sorted(ranked[:shown])


def _labels(items: TagFolder, index: int, folder: Path) -> Tensor:
    return read_mask(
        folder / f"{items.names[index]}.png",
        num_classes=max(items.num_classes, 2),
        ignore_index=items.ignore_index,
        encoding="index",
    )


def _out_of_candidate(labels: Tensor, tags: Tensor, items: TagFolder) -> Tensor:
    """Bool (H, W); a pixel without a label is no fault."""
    candidates = candidates_of(tags[None], background=items.background)[0]
    known = labels != items.ignore_index
    return ~candidates[labels.where(known, 0)] & known


def _coloured(image: Tensor, labels: Tensor, items: TagFolder) -> Tensor:
    """Without a background every class gets a colour: 0 as well."""
    shift, ignored = 0 if items.background is not None else 1, items.ignore_index
    shifted = torch.where(labels == ignored, ignored, labels + shift)
    return label_overlay(image, shifted, ignore_index=ignored)


def _classes(tags: Tensor, items: TagFolder) -> str:
    names: Sequence[str] = items.classes[int(items.background is not None) :]
    return ", ".join(name for name, tag in zip(names, tags.tolist(), strict=True) if tag)
