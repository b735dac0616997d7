"""What a refiner is fitted to: logits, labels and, if wanted, images, held compactly in memory.

Fitting needs every map many times in random order, so this is the one place that keeps a set:
3 bytes a pixel (and 3 more with images), 0.4 GB for 1,000 maps of 352 x 352.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segmend.errors import SegmendError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

    Batches = DataLoader[object] | Dataset[object]

PROBABILITY_LIMIT = 2.0**-13
"""Probabilities are kept this far from 0 and 1: logits within +-9, exact enough in float16."""

IGNORE = 255
"""The label of ignored pixels inside this module, whatever the user's is."""


@dataclass(frozen=True)
class Example:
    """One image: logits float16 (C, H, W), labels uint8 (H, W), image uint8 (3, H, W) or None."""

    name: str
    logits: Tensor
    labels: Tensor
    image: Tensor | None = None


def logits_of(probs: Tensor) -> Tensor:
    """Logits of probability maps: log-odds for one channel, log-probabilities for several.

    Args:
        probs: float (N, C, H, W) in [0, 1].
    Raises:
        SegmendError: a value is NaN or outside [0, 1], or the shape is another.
    """
    if probs.ndim != 4 or not probs.is_floating_point():
        raise SegmendError(
            f"probs: want float (N, C, H, W), got {probs.dtype} {tuple(probs.shape)}"
        )
    low, high = (float(v) for v in torch.aminmax(probs)) if probs.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise SegmendError(
            f"probs: want probabilities in [0, 1], got values from {low:g} to {high:g}; "
            "apply a sigmoid (one channel) or a softmax (several) to logits first"
        )
    return limited_logits(probs.float())


def limited_logits(probs: Tensor) -> Tensor:
    """`logits_of` without its checks: what an exported graph computes."""
    if probs.shape[1] == 1:
        return probs.clamp(PROBABILITY_LIMIT, 1 - PROBABILITY_LIMIT).logit()
    return probs.clamp_min(PROBABILITY_LIMIT).log()


def collect_examples(
    probs: Tensor | str | Path | Batches,
    target: Tensor | str | Path | None,
    images: Tensor | str | Path | None = None,
    *,
    ignore_index: int = 255,
) -> list[Example]:
    """Read everything that a refiner is fitted to.

    Args:
        probs: (N, C, H, W) or, for binary problems, (N, H, W) in [0, 1]; or a folder of
            probability maps; or a data set or DataLoader whose items or batches are mappings
            with "probs", "target" and optionally "image" and "name", or tuples in that order.
        target: (N, H, W) integers, or a folder of masks; None with a data set or DataLoader.
        images: (N, 3, H, W) in [0, 1], or a folder, or None.
    Raises:
        SegmendError: naming the file or index, what was found and what was expected.
    """
    examples: list[Example] = []
    for name, map_, labels, image in _items(probs, target, images, ignore_index):
        examples.append(_example(name, map_, labels, image, ignore_index))
        if examples[-1].logits.shape[0] != examples[0].logits.shape[0]:
            raise SegmendError(
                f"{name}: has {examples[-1].logits.shape[0]} probability channels, but "
                f"{examples[0].name} has {examples[0].logits.shape[0]}; want the same in all"
            )
    if not examples:
        raise SegmendError("nothing to fit a refiner to: no probability maps were given")
    return examples


Item = tuple[str, Tensor, Tensor, Tensor | None]


def _items(
    probs: Tensor | str | Path | Batches,
    target: Tensor | str | Path | None,
    images: Tensor | str | Path | None,
    ignore_index: int,
) -> Iterator[Item]:
    if isinstance(probs, (str, Path)):
        yield from _from_folders(probs, target, images, ignore_index)
    elif isinstance(probs, Tensor):
        yield from _from_tensors(probs, target, images)
    else:
        yield from _from_batches(probs if isinstance(probs, Iterable) else _indexed(probs))


def _from_folders(
    probs: str | Path,
    target: Tensor | str | Path | None,
    images: Tensor | str | Path | None,
    ignore_index: int,
) -> Iterator[Item]:
    from segmend.data.folders import ProbabilityFolder

    if not isinstance(target, (str, Path)) or isinstance(images, Tensor):
        raise SegmendError("probs is a folder: give masks, and images if any, as folders too")
    channels = ProbabilityFolder(Path(probs))[0]["probs"].shape[0]
    folder = ProbabilityFolder(
        Path(probs),
        Path(target),
        None if images is None else Path(images),
        num_classes=max(2, channels),
        ignore_index=ignore_index,
    )
    for index in range(len(folder)):
        item = folder[index]
        yield item["name"], item["probs"], item["target"], item.get("image")


def _from_tensors(
    probs: Tensor, target: Tensor | str | Path | None, images: Tensor | str | Path | None
) -> Iterator[Item]:
    maps = probs.unsqueeze(1) if probs.ndim == 3 else probs
    if not isinstance(target, Tensor) or target.shape != (len(maps), *maps.shape[2:]):
        found = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise SegmendError(
            f"target: want a tensor {(len(maps), *maps.shape[2:])} to go with probs "
            f"{tuple(probs.shape)}, got {found}"
        )
    if images is not None and not isinstance(images, Tensor):
        raise SegmendError("probs is a tensor: give images, if any, as a tensor too")
    for index in range(len(maps)):
        yield str(index), maps[index], target[index], None if images is None else images[index]


def _from_batches(batches: Iterable[object]) -> Iterator[Item]:
    index = 0
    for batch in batches:
        keys = ("probs", "target", "image")
        if isinstance(batch, Mapping):
            parts: Sequence[object] = [batch.get(key) for key in keys]
            names = batch.get("name")
        elif isinstance(batch, Sequence):
            parts, names = [*batch, None, None][:3], None
        else:
            raise SegmendError(
                f"item {index}: want a mapping or a tuple (probs, target[, image]), "
                f"got {type(batch).__name__}"
            )
        maps, target, image = parts
        if not isinstance(maps, Tensor) or not isinstance(target, Tensor):
            raise SegmendError(f'item {index}: want tensors "probs" and "target", got {keys}')
        image = image if isinstance(image, Tensor) else None
        if target.ndim == 2:  # one item, not a batch
            maps, target = maps[None], target[None]
            image, names = None if image is None else image[None], [names]
        for row, (map_, labels) in enumerate(zip(maps, target, strict=True)):
            name = names[row] if isinstance(names, Sequence) and names[row] else index
            yield str(name), map_, labels, None if image is None else image[row]
            index += 1


def _indexed(dataset: Batches) -> Iterator[object]:
    return (dataset[index] for index in range(len(dataset)))  # type: ignore[index,arg-type]


def _example(
    name: str, probs: Tensor, target: Tensor, image: Tensor | None, ignore_index: int
) -> Example:
    probs = probs.unsqueeze(0) if probs.ndim == 2 else probs
    try:
        logits = logits_of(probs.unsqueeze(0))[0]
    except SegmendError as error:
        raise SegmendError(f"{name}: {error}") from error
    if target.shape != probs.shape[1:]:
        raise SegmendError(
            f"{name}: the mask is {tuple(target.shape)} but the probability map is "
            f"{tuple(probs.shape[1:])}; want the same height and width"
        )
    valid = target != ignore_index
    classes = max(2, probs.shape[0])
    wrong = valid & ((target < 0) | (target >= classes))
    if wrong.any():
        found = sorted(set(target[wrong].tolist()))[:5]
        raise SegmendError(
            f"{name}: the mask has labels {found}; want 0 to {classes - 1} for a map of "
            f"{probs.shape[0]} channel(s), or {ignore_index} to ignore a pixel"
        )
    labels = torch.where(valid, target, IGNORE).to(torch.uint8)
    picture = None if image is None else (image * 255).round().to(torch.uint8)
    return Example(name, logits.half(), labels, picture)
