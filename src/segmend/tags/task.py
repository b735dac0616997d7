"""Training a tag classifier: its crops, its losses, and what is validated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segmend.data.masks import read_mask
from segmend.engine.crops import Item, ItemSet
from segmend.engine.photographs import PhotographCrops
from segmend.engine.task import SegmentationTask
from segmend.tags.method_loss import Step, method_loss
from segmend.tags.network import TagClassifier, pool_scores
from segmend.tags.options import TagOptions

IGNORED = 255
UNKNOWN = 254
"""Target inside the image where no label is known; `IGNORED` is padding."""


class TaggedItems(Dataset[Item]):
    """Items with tags as the training loop wants them: with a target, which will mark padding.

    It is 0, or the label of a mask, one for each item, `UNKNOWN` where that has 255.
    """

    def __init__(self, items: ItemSet, labels: Sequence[Path] | None = None) -> None:
        self.items = items
        self.labels = labels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        target = torch.zeros(item["image"].shape[1:], dtype=torch.int64)
        if self.labels is not None:
            target = read_mask(self.labels[index], num_classes=UNKNOWN, encoding="index")
            target = target.masked_fill(target == IGNORED, UNKNOWN)
        return {**item, "target": target}


class TagCrops(PhotographCrops):
    """Crops of a classifier's training, of images with a random longest side; padding is 255."""

    def __init__(self, items: ItemSet, options: TagOptions) -> None:
        super().__init__(
            items,
            crop=options.crop,
            augment=options.augment,
            padding=IGNORED,
            seed=options.seed,
        )
        self.long_side = options.long_side

    def rescaled(
        self, image: Tensor, target: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if self.long_side is None:
            return image, target
        return rescaled(image, target, self.long_side, rng)


def rescaled(
    image: Tensor, target: Tensor, long_side: tuple[int, int], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The image (3, H, W) with a random longest side, and its target (H, W) at the same size."""
    low, high = long_side
    side = int(torch.randint(low, high + 1, (), generator=rng))
    factor = side / max(image.shape[1:])
    height, width = (max(1, round(s * factor)) for s in image.shape[1:])
    image = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=factor < 1)[
        0
    ]
    small = F.interpolate(target[None, None].float(), size=(height, width), mode="nearest-exact")
    return image, small[0, 0].to(target.dtype)


class TagTask(SegmentationTask):
    """Classification loss on the pooled maps, and the two add-on losses on the maps.

    With `background=None` every pixel belongs to a class that can be a tag.
    """

    options: TagOptions

    def __init__(
        self, model: nn.Module, options: TagOptions, *, background: int | None = 0
    ) -> None:
        super().__init__(model, options)
        self.background = background

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of one batch: image (N, 3, H, W), target (N, H, W), tags (N, C)."""
        images, tags = self.images_of(batch), batch["tags"]
        inside = batch["target"] != IGNORED
        assert isinstance(self.model, TagClassifier)
        labels = batch["target"].where(batch["target"] != UNKNOWN, IGNORED)
        step = Step(images, tags, inside, self.options, self.background, self._done(), labels)
        loss = method_loss(self.model, step)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        scores = pool_scores(self.model(self.images_of(batch)), pooling=self.options.pooling)
        loss = F.binary_cross_entropy_with_logits(scores.float(), batch["tags"].float())
        self._val_losses.append(loss.detach())

    def on_validation_epoch_end(self) -> None:
        # No score: the best maps are not those of the best classifier, so the last epoch is kept.
        self.validation = {"val_loss": float(torch.stack(self._val_losses).mean())}

    def _done(self) -> float:
        """Share of the training that lies behind."""
        steps = int(self.trainer.estimated_stepping_batches)
        return self.global_step / max(steps, 1)
