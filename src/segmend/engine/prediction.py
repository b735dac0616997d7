"""Probability maps from a segmenter, image by image, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmend.data.folders import SegmentationFolder
from segmend.data.probability_maps import PROBABILITY_SUFFIXES, write_probabilities
from segmend.engine.crops import ItemSet
from segmend.engine.options import Precision, resolve_precision
from segmend.engine.progress import progress_bar
from segmend.errors import SegmendError


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid of one channel, softmax over several; (N, C, H, W) in any dtype to float32."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def predict_probabilities(
    model: nn.Module,
    images: ItemSet | str | Path,
    *,
    batch_size: int = 8,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, probs (C, H, W) float32 on the CPU) for every image, in order.

    Args:
        model: images (N, 3, H, W) in [0, 1] → logits (N, C, H, W); used in evaluation mode and
            left in the mode that it came in.
        images: a folder, or a set whose items have "name" and "image".
        batch_size: neighbours of equal size go through the model together, at most so many.
        precision: "auto" is bfloat16 where the processor has it in hardware.
        device: where to compute; None is where the model is.
    """
    if batch_size < 1:
        raise SegmendError(f"batch_size: want at least 1, got {batch_size}")
    items = SegmentationFolder(images) if isinstance(images, (str, Path)) else images
    where = torch.device(device) if device is not None else _device_of(model)
    was_training = model.training
    model = model.to(where).eval()
    try:
        for batch in equal_size_batches((items[i] for i in range(len(items))), size=batch_size):
            stacked = torch.stack([item["image"] for item in batch])
            probs = _forward(model, stacked.to(where), precision).cpu()
            yield from zip((item["name"] for item in batch), probs, strict=True)
    finally:
        model.train(was_training)


def predict_folder(
    model: nn.Module,
    images: ItemSet | str | Path,
    out: str | Path,
    *,
    suffix: str | None = None,
    resume: bool = True,
    progress: bool = True,
    batch_size: int = 8,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
) -> list[Path]:
    """Write one probability map per image, each atomically, under the image's name.

    Args:
        out: the maps' folder; subfolders of names are kept.
        suffix: the maps' format; None is ".png" (16 bit) for one channel, ".npz" for more.
        resume: leave images alone whose map is there already, in the chosen format.
        progress: show a bar.
        (the others): see `predict_probabilities`.
    Returns:
        The paths of all maps, in order.
    """
    if suffix is not None and suffix not in PROBABILITY_SUFFIXES:
        raise SegmendError(
            f"suffix: want one of {', '.join(sorted(PROBABILITY_SUFFIXES))}, got {suffix!r}"
        )
    items = SegmentationFolder(images) if isinstance(images, (str, Path)) else images
    out = Path(out)
    names = names_of(items)
    found = {n: p for n in names if (p := _written(out, n, suffix)) is not None} if resume else {}
    missing = Part(items, [i for i, name in enumerate(names) if name not in found])
    with progress_bar("predicting", total=len(missing), enabled=progress) as bar:
        for name, probs in predict_probabilities(
            model, missing, batch_size=batch_size, precision=precision, device=device
        ):
            path = out / f"{name}{suffix or ('.png' if len(probs) == 1 else '.npz')}"
            write_probabilities(path, probs)
            found[name] = path
            bar.advance()
    return [found[name] for name in names]


class Part:
    """Some items of a set, in the given order."""

    def __init__(self, items: ItemSet, indices: list[int]) -> None:
        self.items = items
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[self.indices[index]]


def names_of(items: ItemSet) -> list[str]:
    """The names of a set's items, without decoding images where the set knows its names."""
    if isinstance(items, Part):
        names = names_of(items.items)
        return [names[i] for i in items.indices]
    known = getattr(items, "names", None)
    if known is not None:
        return list(known)
    matches = getattr(items, "matches", None)
    if matches is not None:
        return [str(match.name) for match in matches]
    return [str(items[i]["name"]) for i in range(len(items))]


def equal_size_batches(
    items: Iterable[dict[str, Any]], *, size: int
) -> Iterator[list[dict[str, Any]]]:
    """Neighbouring items whose images have one shape, at most `size` together."""
    batch: list[dict[str, Any]] = []
    for item in items:
        if batch and (len(batch) == size or batch[0]["image"].shape != item["image"].shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.inference_mode()
def _forward(model: nn.Module, images: Tensor, precision: Precision) -> Tensor:
    mixed = resolve_precision(precision, images.device) == "bf16-mixed"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
        logits = model(images.contiguous(memory_format=torch.channels_last))
    return probabilities(logits)


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _written(out: Path, name: str, suffix: str | None) -> Path | None:
    for candidate in (suffix,) if suffix else (".png", ".npz"):
        path = out / f"{name}{candidate}"
        if path.is_file():
            return path
    return None
