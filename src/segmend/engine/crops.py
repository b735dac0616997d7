"""From images of any size to equal, augmented crops, each a function of (seed, epoch, image)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from segmend.engine.progress import track
from segmend.engine.seeds import derive_seed
from segmend.errors import SegmendError

Item = dict[str, Any]
CACHE_LIMIT = 2 * 1024**3  # bytes that "auto" allows itself
JITTER = 0.2  # brightness, contrast and saturation by up to 20%


class ItemSet(Protocol):
    """Anything with a length whose items are dict(name, image (3, H, W), target (H, W))."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


class CachedSet(Dataset[Item]):
    """The items of a set kept in memory, a quarter of their size where they came from 8 bits."""

    def __init__(self, items: ItemSet, *, progress: bool = True) -> None:
        indices = range(len(items))
        self._items = [
            _pack(items[i]) for i in track(indices, description="reading images", enabled=progress)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        item = self._items[index]
        image = item["image"]
        if image.dtype == torch.uint8:
            image = image.to(torch.float32) / 255
        return {**item, "image": image, "target": item["target"].to(torch.int64)}


def cached(items: ItemSet, *, cache: bool | Literal["auto"], progress: bool) -> ItemSet:
    """`items`, in memory if asked for, or ("auto") if all are expected to fit in `CACHE_LIMIT`.

    The size of the whole set is guessed from the first item: 4 bytes a pixel.
    """
    if isinstance(items, CachedSet) or len(items) == 0 or cache is False:
        return items
    if cache == "auto" and 4 * items[0]["target"].numel() * len(items) > CACHE_LIMIT:
        return items
    return CachedSet(items, progress=progress)


class CropSet(Dataset[Item]):
    """Augmented crops. Its index counts on over epochs: epoch × length + image."""

    def __init__(
        self, items: ItemSet, *, crop: int | None, augment: bool, ignore_index: int, seed: int
    ) -> None:
        self.items = items
        self.crop = crop
        self.augment = augment
        self.ignore_index = ignore_index
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        epoch, number = divmod(index, len(self.items))
        item = self.items[number]
        image, target = check_pair(item)
        rng = torch.Generator().manual_seed(derive_seed(self.seed, epoch, number))
        if self.crop is not None:
            image, target = random_crop(
                image, target, size=self.crop, ignore_index=self.ignore_index, rng=rng
            )
        if self.augment:
            image, target = augmented(image, target, rng=rng)
        return {**item, "image": image, "target": target}


class EpochSampler(Sampler[int]):
    """A fresh permutation every epoch; the epoch is part of the index, so workers know it too."""

    def __init__(self, length: int, *, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        rng = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, self.length))
        order = torch.randperm(self.length, generator=rng) + self.epoch * self.length
        return iter(order.tolist())


def check_pair(item: Item) -> tuple[Tensor, Tensor]:
    """Image and target of an item; SegmendError, with the item's name, where they do not fit."""
    image, target = item["image"], item["target"]
    if image.ndim != 3 or image.shape[0] != 3 or target.shape != image.shape[1:]:
        raise SegmendError(
            f"{item['name']}: want image (3, H, W) and target (H, W) of one size, got "
            f"{tuple(image.shape)} and {tuple(target.shape)}"
        )
    return image, target


def random_crop(
    image: Tensor, target: Tensor, *, size: int, ignore_index: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A size × size window; where the image is smaller it is padded, and the padding ignored."""
    height, width = target.shape
    top = _draw(height - size, rng)
    left = _draw(width - size, rng)
    image = image[:, top : top + size, left : left + size]
    target = target[top : top + size, left : left + size]
    return padded(image, target, size=(size, size), ignore_index=ignore_index)


def padded(
    image: Tensor, target: Tensor, *, size: tuple[int, int], ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Grow right and below to `size`: the image by its edge pixels, the target by ignore."""
    below, right = size[0] - target.shape[0], size[1] - target.shape[1]
    if below <= 0 and right <= 0:
        return image, target
    frame = (0, max(right, 0), 0, max(below, 0))
    return F.pad(image[None], frame, mode="replicate")[0], F.pad(target, frame, value=ignore_index)


def augmented(image: Tensor, target: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight flips and quarter turns, then mild brightness, contrast, saturation."""
    turns, flip = _draw(3, rng), _draw(1, rng)
    image, target = image.rot90(turns, (-2, -1)), target.rot90(turns, (-2, -1))
    if flip:
        image, target = image.flip(-1), target.flip(-1)
    return recoloured(image, amount=JITTER, rng=rng), target


def recoloured(image: Tensor, *, amount: float, rng: torch.Generator) -> Tensor:
    """An image (3, H, W) with brightness, contrast and saturation changed by up to `amount`."""
    from torchvision.transforms.v2 import functional as T

    factors = 1 + amount * (2 * torch.rand(3, generator=rng) - 1)
    for change, factor in zip(
        (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation), factors, strict=True
    ):
        image = change(image, float(factor))
    return image


def collate(items: Sequence[Item], *, ignore_index: int) -> Item:
    """A batch as large as its largest image; smaller ones are padded, and the padding ignored.

    Whatever else the items hold, such as tags, is stacked as it is.
    """
    height = max(item["target"].shape[0] for item in items)
    width = max(item["target"].shape[1] for item in items)
    pairs = [
        padded(*check_pair(item), size=(height, width), ignore_index=ignore_index) for item in items
    ]
    rest = items[0].keys() - {"name", "image", "target"}
    return {
        **{key: torch.stack([item[key] for item in items]) for key in sorted(rest)},
        "name": [item["name"] for item in items],
        "image": torch.stack([image for image, _ in pairs]),
        "target": torch.stack([target for _, target in pairs]),
    }


def _draw(largest: int, rng: torch.Generator) -> int:
    if largest <= 0:
        return 0
    return int(torch.randint(largest + 1, (), generator=rng))


def _pack(item: Item) -> Item:
    image, target = check_pair(item)
    small = (image * 255).round()
    if torch.equal(small / 255, image):
        image = small.to(torch.uint8)
    if int(target.min()) >= 0 and int(target.max()) <= 255:
        target = target.to(torch.uint8)
    return {**item, "image": image, "target": target}
