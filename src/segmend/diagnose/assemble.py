"""From what was read of one image to a checked case: labels made of a map, pixels that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segmend.data.tag_files import TagRow, read_tag_rows
from segmend.data.tag_table import row_names, tag_table
from segmend.diagnose.case import Case
from segmend.errors import SegmendError


def assemble(
    name: str,
    target: Tensor,
    *,
    probs: Tensor | None,
    pred: Tensor | None,
    image: Tensor | None,
    candidates: Tensor | None,
    threshold: float,
    ignore_index: int,
    num_classes: int,
) -> Case:
    """A case; `pred` None takes `probs > threshold`, or the largest class of many channels.

    Raises:
        SegmendError: shapes, channels or probabilities that do not fit, with the `name`.
    """
    valid = target != ignore_index
    if probs is not None:
        probs = _checked_probs(name, probs, target, valid, num_classes)
    if pred is None:
        assert probs is not None
        pred = (probs[0] > threshold).long() if len(probs) == 1 else probs.argmax(0)
    if image is not None and (image.ndim != target.ndim + 1 or image.shape[1:] != target.shape):
        raise SegmendError(
            f"{name}: image {tuple(image.shape)} for a target {tuple(target.shape)}; want equal "
            "sizes after the channels"
        )
    if candidates is not None and tuple(candidates.shape) != (num_classes,):
        raise SegmendError(
            f"{name}: candidates {tuple(candidates.shape)}; want ({num_classes},), one a class"
        )
    return Case(name, pred, target, valid, probs, image, candidates)


def with_channels(probs: Tensor, target: Tensor) -> Tensor:
    """(C, H, W[, D]) from that, or from a binary map without a channel axis."""
    return probs[None] if probs.ndim == target.ndim else probs


def checked_threshold(threshold: float | None) -> float:
    """0.5 for None; raises SegmendError outside [0, 1)."""
    if threshold is None:
        return 0.5
    if not 0 <= threshold < 1:
        raise SegmendError(f"threshold: want a number in [0, 1), got {threshold!r}")
    return float(threshold)


def candidates_of(
    tags: Mapping[str, Sequence[str]] | str | Path,
    names: Sequence[str],
    classes: Sequence[str] | None,
    num_classes: int,
) -> Tensor:
    """bool (N, C): the classes each of the images `names` may hold, the background always.

    Args:
        tags: names of classes by image, or a file of them (see `read_tag_rows`); rows of other
            images are passed over.
    Raises:
        SegmendError: no class names, an image without tags, an unknown class.
    """
    if classes is None or len(classes) != num_classes:
        raise SegmendError(
            f"tags: want the names of all {num_classes} classes in label order (classes), got "
            f"{'none' if classes is None else len(classes)}"
        )
    if isinstance(tags, (str, Path)):
        rows, source = read_tag_rows(tags), str(tags)
    else:
        rows = [TagRow(name, tuple(found), "tags") for name, found in tags.items()]
        source = "tags"
    known = row_names(names)
    rows = [row for row in rows if row.image in known]
    table, _ = tag_table(rows, names, classes, background=0, source=source)
    return torch.cat((torch.ones(len(names), 1), table), dim=1).bool()


def _checked_probs(
    name: str, probs: Tensor, target: Tensor, valid: Tensor, num_classes: int
) -> Tensor:
    wanted = 1 if num_classes == 2 else num_classes
    if num_classes == 2 and len(probs) == 2 and probs.ndim == target.ndim + 1:
        probs = probs[1:]
    if tuple(probs.shape) != (wanted, *target.shape):
        raise SegmendError(
            f"{name}: probs {tuple(probs.shape)} for {num_classes} classes and a target "
            f"{tuple(target.shape)}; want ({wanted}, {', '.join(map(str, target.shape))})"
        )
    if not probs.is_floating_point():
        raise SegmendError(f"{name}: probs: want floating point in [0, 1], got {probs.dtype}")
    probs = probs.float()
    low, high = (float(value) for value in probs.aminmax())
    if low >= 0 and high <= 1:  # NaN compares as False
        return probs
    counted = probs[:, valid]
    if not bool(((counted >= 0) & (counted <= 1)).all()):
        raise SegmendError(
            f"{name}: probs from {low:g} to {high:g}; want [0, 1]; apply sigmoid or softmax to "
            "logits first"
        )
    return probs.masked_fill(~valid, 0)
