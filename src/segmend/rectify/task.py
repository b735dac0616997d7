"""Training a segmenter with tags: its items, its losses, and averaged weights.

Imported only when training starts: Lightning takes a second to import.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.engine.crops import ItemSet
from segmend.engine.losses import segmentation_loss
from segmend.engine.photographs import PhotographCrops
from segmend.engine.task import SegmentationTask
from segmend.errors import SegmendError
from segmend.rectify.candidates import candidates_of
from segmend.rectify.module import OutOfCandidateRectification
from segmend.rectify.network import Reading, RectifiedSegmenter
from segmend.rectify.options import RectifyOptions

PADDING = 254
"""Label of padding inside a training batch: apart from `ignore_index`, since tags hold where a
pseudo-label is unsure, and do not where there is no image."""


class RectifyCrops(PhotographCrops):
    """Crops of a segmenter's training, of images at a random scale; padding is `PADDING`."""

    def __init__(self, items: ItemSet, options: RectifyOptions) -> None:
        super().__init__(
            items,
            crop=options.crop,
            augment=options.augment,
            padding=PADDING,
            seed=options.seed,
        )
        self.scales = options.rescale

    def rescaled(
        self, image: Tensor, target: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return (image, target) if self.scales is None else rescaled(image, target, self.scales, rng)


def rescaled(
    image: Tensor, target: Tensor, scales: tuple[float, float], rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Both sides times one number drawn evenly from `scales`."""
    low, high = scales
    scale = low + (high - low) * float(torch.rand((), generator=rng))
    size = [max(1, round(side * scale)) for side in target.shape]
    larger = F.interpolate(image[None], size=size, mode="bilinear", antialias=scale < 1)
    labels = F.interpolate(target[None, None].double(), size=size, mode="nearest-exact")
    return larger[0].clamp(0, 1), labels[0, 0].long()


class RectifyTask(SegmentationTask):
    """Cross-entropy, the gate's tag loss and rectification; validation as for any segmenter."""

    options: RectifyOptions

    def __init__(
        self, model: RectifiedSegmenter, options: RectifyOptions, *, tags: Tensor | None = None
    ) -> None:
        """`tags` (N, C) of the whole training set, for the prior; None counts what passes by."""
        super().__init__(model, options)
        spec = model.spec
        self.rectify = OutOfCandidateRectification(
            spec.num_classes, background=spec.background, form=options.form,
            weight=options.rectify_weight, margin=options.margin, average=options.average,
            adaptive=options.adaptive, gamma=options.gamma, rho=options.rho,
            dropped=options.dropped, background_joins=options.background_joins,
        )  # fmt: skip
        if tags is not None:
            self.rectify.count(tags)
        self.average = None if options.ema == 0 else copy.deepcopy(model).requires_grad_(False)
        self._swapped = False

    def on_train_start(self) -> None:
        steps = int(self.trainer.estimated_stepping_batches)
        self.rectify.start = round(self.options.start * steps)
        self.rectify.warm_up = round(self.options.warm_up * steps)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch: image (N, 3, H, W), target (N, H, W), tags (N, C)."""
        padding = batch["target"] == PADDING
        reading = self._model().read(self.images_of(batch), None if not padding.any() else ~padding)
        target = batch["target"].masked_fill(padding, self.options.ignore_index)
        # First in the graph, so last in the backward pass, when cross-entropy's memory is free.
        loss = self._tag_losses(reading, batch["tags"], padding)
        loss = loss + segmentation_loss(
            reading.logits, target, loss="ce", ignore_index=self.options.ignore_index
        )
        self._losses.append(loss.detach())
        return loss

    def _tag_losses(self, reading: Reading, tags: Tensor, padding: Tensor) -> Tensor:
        loss = reading.logits.new_zeros(())
        if self.options.rectify_weight > 0:
            ranked, stride = reading, self.options.rectify_stride
            if stride > 1:
                ranked, padding = self._model().on_grid(reading, stride, padding)
            loss = self.rectify(ranked.logits, tags, padding, class_logits=ranked.classes)
        gate = self._model().gate
        if gate is not None and reading.tags is not None:
            loss = loss + gate.loss(reading.tags, tags)
        return loss

    def _model(self) -> RectifiedSegmenter:
        return cast(RectifiedSegmenter, self.model)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is None:
            return
        # A low start would weigh the untrained weights for 1 / (1 - ema) steps.
        decay = min(self.options.ema, (1 + self.global_step) / (10 + self.global_step))
        self._blend(decay)
        if batch_idx + 1 == self.trainer.num_training_batches:
            self._swap()

    def on_train_epoch_end(self) -> None:
        # After the results were kept: training goes on with the weights that are trained.
        if self._swapped:
            self._swap()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint of the epoch's end has the averaged weights in the model's place: undo."""
        if not self._swapped:
            return
        state = checkpoint["state_dict"]
        for name in [n for n in state if n.startswith("model.")]:
            other = "average." + name.removeprefix("model.")
            state[name], state[other] = state[other], state[name]

    @torch.no_grad()
    def _blend(self, decay: float) -> None:
        assert self.average is not None
        mine = self.model.state_dict()
        for name, mean in self.average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(mine[name].to(mean), 1 - decay)
            else:
                mean.copy_(mine[name])

    @torch.no_grad()
    def _swap(self) -> None:
        assert self.average is not None
        mine = self.model.state_dict()
        for name, mean in self.average.state_dict().items():
            kept = mean.clone()
            mean.copy_(mine[name])
            mine[name].copy_(kept)
        self._swapped = not self._swapped


def check_items(items: ItemSet, *, num_classes: int, background: int | None) -> Tensor:
    """The tags of all items (N, C), looked at before training begins.

    Raises:
        SegmendError: an item without tags or target, tags of another width or value.
    """
    table = getattr(items, "tag_table", None)
    if table is not None:
        tags: Tensor = table()
    else:
        rows = [items[index] for index in range(len(items))]
        for item in rows:
            if "tags" not in item or "target" not in item:
                raise SegmendError(
                    f"{item.get('name')}: want an item with tags and target, got {sorted(item)}"
                )
        tags = torch.stack([item["tags"] for item in rows])
    candidates_of(tags, num_classes=num_classes, background=background)
    return tags
