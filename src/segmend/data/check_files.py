"""One image or mask at a time: whether it can be read, and what is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from segmend.data.images import read_image
from segmend.data.masks import read_mask


@dataclass(frozen=True)
class FileFacts:
    """size: (height, width). digest: of the file's bytes. pixels: of a mask, by label."""

    size: tuple[int, int]
    digest: str
    pixels: dict[int, int]


def inspect_image(path: Path) -> FileFacts:
    """Read an image whole; SegmendError as in `read_image`."""
    image = read_image(path)
    return FileFacts((image.shape[1], image.shape[2]), _digest(path), {})


def inspect_mask(path: Path, *, num_classes: int, ignore_index: int, indices: bool) -> FileFacts:
    """Read a mask whole; `indices`: its numbers are labels. SegmendError as in `read_mask`."""
    mask = read_mask(
        path,
        num_classes=max(num_classes, 2),
        ignore_index=ignore_index,
        encoding="index" if indices else "auto",
    )
    counts = torch.bincount(mask[mask != ignore_index], minlength=num_classes)
    pixels = {label: int(counts[label]) for label in counts.nonzero().flatten().tolist()}
    return FileFacts((mask.shape[0], mask.shape[1]), _digest(path), pixels)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
