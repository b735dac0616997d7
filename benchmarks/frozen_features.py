"""Features of a segmenter's frozen lower half, kept in memory, and the upper half that learns.

The lower half never changes, so each image passes through it once (and its mirror image), not once
an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.engine.options import has_fast_bfloat16
from segmend.engine.seeds import derive_seed
from segmend.rectify.network import RectifiedSegmenter

VOID = 255
STEP = 4  # losses are taken at every fourth pixel along each axis


@dataclass
class Cached:
    """One image: what the frozen half says of it (and of its mirror image), and its labels."""

    size: tuple[int, int]
    features: Tensor
    mirrored: Tensor | None
    target: Tensor
    tags: Tensor
    scores: Tensor


def fast() -> AbstractContextManager[None]:
    """bfloat16 where the processor has it in hardware, as `segmend train` does."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(torch.device("cpu")))


class Halves:
    """A SqueezeNet trunk in two: frozen up to its third module at stride 8, and what is trained."""

    def __init__(self, model: RectifiedSegmenter) -> None:
        stages = model.trunk.backbone.stages
        self.model = model.to(memory_format=torch.channels_last)  # on CPUs 1.8 times as fast
        self.lower = nn.Sequential(*stages[0], *stages[1], *stages[2][:4])
        self.upper = nn.Sequential(*stages[2][4:], *stages[3])

    def frozen(self, image: Tensor) -> Tensor:
        """(384, h, w) in half precision of an image (3, H, W), padded to a multiple of 8."""
        height, width = image.shape[1:]
        x = (image[None] - self.model.mean) / self.model.std
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        with torch.inference_mode(), fast():
            return self.lower(x)[0].half()

    def read(self, features: Tensor, size: tuple[int, int], valid: Tensor | None) -> Any:
        trunk = self.model.trunk
        return self.model.decide(trunk.decoded(self.upper(features)), size, valid)


def cache(
    halves: Halves, classifier: nn.Module, items: TagFolder, masks: Path | None
) -> list[Cached]:
    """Everything about a split; with `masks` the labels are theirs, and mirror images are kept."""
    rows = []
    for index in range(len(items)):
        item = items[index]
        image, target = item["image"], item["target"]
        if masks is not None:
            path = masks / f"{item['name']}.png"
            target = read_mask(path, num_classes=max(items.num_classes, 2), encoding="index")
        with torch.inference_mode(), fast():
            scores = classifier.read(image[None]).scores[0].float().sigmoid()
        size = (image.shape[1], image.shape[2])
        mirrored = halves.frozen(image.flip(-1)) if masks is not None else None
        rows.append(Cached(size, halves.frozen(image), mirrored, target, item["tags"], scores))
    return rows


def batches(rows: list[Cached], size: int, seed: int, epoch: int) -> Iterator[list[Cached]]:
    """Shuffled batches of equal image size, each image mirrored half of the time."""
    rng = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(rows), generator=rng).tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for index in order:
        groups.setdefault(rows[index].size, []).append(index)
    parts = [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]
    for number in torch.randperm(len(parts), generator=rng).tolist():
        yield [rows[i] for i in parts[number]]


def stacked(rows: list[Cached], rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, targets and inside (every `STEP`th), tags of a batch."""
    features, targets = [], []
    for row in rows:
        flip = bool(torch.rand((), generator=rng) < 0.5)
        assert row.mirrored is not None
        features.append((row.mirrored if flip else row.features).float())
        targets.append(row.target.flip(-1) if flip else row.target)
    target = torch.stack(targets)
    below, right = -target.shape[1] % 8, -target.shape[2] % 8
    inside = F.pad(torch.ones_like(target, dtype=torch.bool), (0, right, 0, below))
    target = F.pad(target, (0, right, 0, below), value=VOID)
    tags = torch.stack([row.tags for row in rows])
    return torch.stack(features), target[:, ::STEP, ::STEP], inside[:, ::STEP, ::STEP], tags


def replace_target(row: Cached, target: Tensor) -> Cached:
    return Cached(row.size, row.features, None, target, row.tags, row.scores)
