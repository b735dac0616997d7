"""Crops of photographs for training: rescaled, square, mirrored, recoloured."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmend.engine.crops import Item, ItemSet, random_crop, recoloured
from segmend.engine.seeds import derive_seed

JITTER = 0.3
"""Brightness, contrast and saturation by up to 30% (published code of AffinityNet and SEAM; their
hue shift of 10% is left out: it costs more than the rest together)."""


class PhotographCrops(Dataset[Item]):
    """Square crops of items; padding has its own label. Index and seed as in `CropSet`.

    No quarter turns: photographs have an up and a down.

    Args:
        crop: side in pixels; None: whole images.
        augment: mirror and recolour.
        padding: label of pixels outside of the image.
    """

    def __init__(
        self, items: ItemSet, *, crop: int | None, augment: bool, padding: int, seed: int
    ) -> None:
        self.items = items
        self.crop, self.augment, self.padding, self.seed = crop, augment, padding, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        epoch, number = divmod(index, len(self.items))
        item = self.items[number]
        rng = torch.Generator().manual_seed(derive_seed(self.seed, epoch, number))
        image, target = self.rescaled(item["image"], item["target"], rng)
        if self.crop is not None:
            image, target = random_crop(
                image, target, size=self.crop, ignore_index=self.padding, rng=rng
            )
        if self.augment:
            if float(torch.rand((), generator=rng)) < 0.5:
                image, target = image.flip(-1), target.flip(-1)
            image = recoloured(image, amount=JITTER, rng=rng)
        return {**item, "image": image, "target": target}

    def rescaled(
        self, image: Tensor, target: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) and target (H, W) at the size to take crops from; here their own."""
        return image, target
