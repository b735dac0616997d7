"""Augmented crops of images and volumes for context learning, with their distance to the target."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from segmend.context.distance import distance_map
from segmend.engine.crops import Item, ItemSet
from segmend.engine.seeds import derive_seed
from segmend.errors import SegmendError

JITTER = 0.2
"""Brightness and contrast by up to 20%."""
ZOOM = (0.8, 1.25)
TURN = 0.35
"""Radians, about 20 degrees; nnU-Net turns by up to 30."""
FAR = 1e6
KEYS = ("pixels", "labels", "distance", "maps")
OFTEN = 0.3
"""Share of the crops that are zoomed and turned (nnU-Net: 0.2 each)."""


class PreparedSet(Dataset[Item]):
    """Items of any number of axes as the training loop takes them.

    The loop reads `image` and `target` as flat pictures, so these only mark the place; what is
    learned from are `pixels` (C, *size), `labels` (*size) and, where wanted or given, `distance`
    and `maps` (*size), the latter context labels made by hand, from the items' `context`.

    Args:
        distance: also measure each pixel's distance to the target (mm where there is a spacing).
        keep: hold items in memory once they were read.
        length: as many as the set is to pretend to have; items come round again.
        empty_is_far: without a target, distances are `FAR`, not the published 0.
    Raises:
        SegmendError: (when read) no target, shapes or labels that do not fit; the item is named.
    """

    def __init__(
        self,
        items: ItemSet,
        *,
        distance: bool,
        keep: bool,
        num_classes: int,
        ignore_index: int,
        length: int | None = None,
        empty_is_far: bool = False,
    ) -> None:
        self.items = items
        self.length = len(items) if length is None else length
        self.distance = distance
        self.empty_is_far = empty_is_far
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._kept: dict[int, Item] | None = {} if keep else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        index %= len(self.items)
        if self._kept is None:
            return self._read(index)
        if index not in self._kept:
            self._kept[index] = self._read(index)
        return self._kept[index]

    def _read(self, index: int) -> Item:
        item = self.items[index]
        name, pixels, labels = item["name"], item["image"], item.get("target")
        if labels is None or pixels.ndim not in (3, 4) or labels.shape != pixels.shape[1:]:
            found = None if labels is None else tuple(labels.shape)
            raise SegmendError(
                f"{name}: want image (C, H, W) or (C, H, W, D) and target of its size, got "
                f"{tuple(pixels.shape)} and {found}"
            )
        wrong = (labels >= self.num_classes) & (labels != self.ignore_index)
        if bool(wrong.any()):
            raise SegmendError(
                f"{name}: label {int(labels[wrong][0])}; want below {self.num_classes}, or "
                f"{self.ignore_index}; say which labels are the target, or raise num_classes"
            )
        row: Item = {**blank(), "name": name, "pixels": pixels, "labels": labels}
        if "context" in item:
            row["maps"] = item["context"]
        if self.distance:
            spacing = item["spacing"].tolist() if "spacing" in item else None
            row["distance"] = distance_map(
                labels[None], spacing=spacing, ignore_index=self.ignore_index
            )[0]
            if self.empty_is_far and not bool(((labels > 0) & (labels != self.ignore_index)).any()):
                row["distance"].fill_(FAR)
        return row


def blank() -> Item:
    """A picture of one pixel, for a loop that only knows pictures."""
    return {"image": torch.zeros(3, 1, 1), "target": torch.zeros(1, 1, dtype=torch.int64)}


class ContextCrops(Dataset[Item]):
    """Crops of one size; every second one, by chance, is centred on foreground, if there is any.

    Its index counts on over epochs, as that of `CropSet`; items follow each other round and round,
    so that an epoch may be shorter or longer than the set.
    """

    def __init__(
        self,
        items: PreparedSet,
        *,
        crop: tuple[int, ...],
        augment: bool,
        ignore_index: int,
        seed: int,
    ) -> None:
        self.items, self.crop, self.augment = items, crop, augment
        self.ignore_index, self.seed = ignore_index, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        epoch, number = divmod(index, len(self))
        item = self.items[index]
        rng = torch.Generator().manual_seed(derive_seed(self.seed, epoch, number))
        centred = bool(_draw(1, rng))
        row = cropped(
            item, size=self.crop, centred=centred, ignore_index=self.ignore_index, rng=rng
        )
        return augmented(row, ignore_index=self.ignore_index, rng=rng) if self.augment else row


def cropped(
    item: Item, *, size: tuple[int, ...], centred: bool, ignore_index: int, rng: torch.Generator
) -> Item:
    """A window of `size`, padded where the item is smaller: pixels by their edge, labels ignored,
    distance by its largest value. `centred`: around a random foreground voxel, if there is one."""
    labels = item["labels"]
    if labels.ndim != len(size):
        raise SegmendError(
            f"{item['name']}: has {labels.ndim} axes, the patch {size} has {len(size)}"
        )
    starts = [_draw(n - s, rng) for n, s in zip(labels.shape, size, strict=True)]
    if centred:
        inside = ((labels > 0) & (labels != ignore_index)).flatten().nonzero()
        if len(inside):
            chosen = int(inside[_draw(len(inside) - 1, rng)])
            where = torch.unravel_index(torch.tensor(chosen), labels.shape)
            starts = [
                min(max(int(w) - s // 2, 0), max(n - s, 0))
                for w, s, n in zip(where, size, labels.shape, strict=True)
            ]
    row = dict(item)
    for key in (key for key in KEYS if key in item):
        window = item[key]
        for axis, (start, side) in enumerate(zip(starts, size, strict=True)):
            place = axis + window.ndim - len(size)
            window = window.narrow(place, start, min(side, window.shape[place]))
        row[key] = _grown(window, size, key, ignore_index)
    return row


def augmented(item: Item, *, ignore_index: int, rng: torch.Generator) -> Item:
    """Mirrored along every axis with probability ½; at times zoomed and turned; recoloured."""
    row = dict(item)
    keys = [key for key in KEYS if key in item]
    axes = item["labels"].ndim
    mirrored = [-1 - axis for axis in range(axes) if _draw(1, rng)]
    for key in keys:
        row[key] = item[key].flip(mirrored)
    if _uniform(rng) < OFTEN:
        grid = _grid(row["labels"].shape, rng)
        for key in keys:
            row[key] = _moved(row[key], grid, key, ignore_index)
    pixels = row["pixels"]
    gain, shift = (1 + JITTER * (2 * torch.rand(2, generator=rng) - 1)).tolist()
    mean = pixels.mean()
    row["pixels"] = (pixels - mean) * gain + mean + (shift - 1) * pixels.std()
    return row


def _grown(window: Tensor, size: tuple[int, ...], key: str, ignore_index: int) -> Tensor:
    missing = [s - n for n, s in zip(window.shape[-len(size) :], size, strict=True)]
    if not any(m > 0 for m in missing):
        return window
    frame = [n for m in reversed(missing) for n in (0, max(m, 0))]
    if key == "pixels":
        return F.pad(window[None], frame, mode="replicate")[0]
    values = {"labels": float(ignore_index), "maps": 0.0, "distance": float(window.max())}
    return F.pad(window, frame, value=values[key])


def _grid(size: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Where to sample: one random zoom, and one random turn in a random plane."""
    axes = len(size)
    low, high = ZOOM
    matrix = torch.eye(axes) * (low + (high - low) * _uniform(rng))
    angle = torch.tensor(TURN * (2 * _uniform(rng) - 1))
    first = _draw(axes - 1, rng)
    second = (first + 1) % axes
    turn = torch.eye(axes)
    turn[first, first] = turn[second, second] = angle.cos()
    turn[first, second], turn[second, first] = -angle.sin(), angle.sin()
    # affine_grid counts from -1 to 1 along every axis, the last axis first.
    sides = torch.tensor(tuple(reversed(size)), dtype=torch.float32)
    matrix = (matrix @ turn) * sides[None] / sides[:, None]
    theta = torch.cat([matrix, torch.zeros(axes, 1)], 1)
    return F.affine_grid(theta[None], [1, 1, *size], align_corners=False)


def _moved(values: Tensor, grid: Tensor, key: str, ignore_index: int) -> Tensor:
    """Pixels linear; labels and distances nearest, so that no new label appears."""
    if key == "pixels":
        return F.grid_sample(values[None], grid, padding_mode="border", align_corners=False)[0]
    moved = F.grid_sample(
        values[None, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )[0, 0]
    if key == "distance":
        return moved
    if key == "maps":
        return moved.long()
    outside = (grid[0].abs() > 1).any(-1)
    return moved.long().masked_fill(outside, ignore_index)


def _draw(largest: int, rng: torch.Generator) -> int:
    return int(torch.randint(largest + 1, (), generator=rng)) if largest > 0 else 0


def _uniform(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))
