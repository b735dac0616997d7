"""Pictures of what was learned: context maps beside the image, and logits around the boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segmend.context.merging import Merge, merge_background
from segmend.data.files import atomic_write
from segmend.errors import SegmendError
from segmend.plot import FALSE_POSITIVE, HIT, class_colour, error_overlay, heat_overlay, panels

SIDE = 192
"""Pixels of a square panel of logits."""


@dataclass(frozen=True)
class ContextPicture:
    """One line of a sheet.

    image: float (C, *size), any scale. target: int64 (*size). context: float (K, *size), the
    generator's probabilities, or fixed context labels. foreground: float (*size), the segmenter's
    probability of class 1. threshold: above it is foreground.
    """

    name: str
    image: Tensor
    target: Tensor
    context: Tensor
    foreground: Tensor
    threshold: float = 0.5


class LogitSample(NamedTuple):
    """Voxels of a network with contexts: logits (N, M), target (N,) in {0, 1}, and its K."""

    logits: Tensor
    target: Tensor
    num_context: int


def draw_contexts(rows: Sequence[ContextPicture], path: str | Path) -> Path:
    """Image, context labels, probability and errors of each row, written to `path` as PNG.

    Of a volume: the slice along the last axis that shows most of the target, and beside them the
    probability projected along that axis (its largest value).

    Raises:
        SegmendError: no rows, or a folder that cannot be written to.
    """
    if not rows:
        raise SegmendError("pictures: want at least one row, got none")
    deep = any(row.target.ndim == 3 for row in rows)
    columns = ["image", "context labels", "foreground", "errors"]
    lines = [_line(row) for row in rows]
    with atomic_write(path) as temporary:
        panels(lines, [*columns, "projection"] if deep else columns).save(temporary)
    return Path(path)


def context_overlay(context: Tensor, target: Tensor) -> Tensor:
    """Context probabilities (K, H, W) as colours mixed by their shares; foreground white.

    Returns:
        float (3, H, W) in [0, 1]; ignored pixels black.
    """
    colours = torch.tensor([class_colour(k + 1) for k in range(len(context))])
    mixed = torch.einsum("khw,kc->chw", context.float().clamp(0, 1), colours)
    mixed = torch.where(target == 255, 0.0, mixed)
    return torch.where((target > 0) & (target != 255), 1.0, mixed).clamp(0, 1)


def draw_logits(
    samples: Mapping[str, LogitSample], path: str | Path, *, merge: Merge = "argmax"
) -> Path:
    """Where networks put background and foreground, on both sides of their decision boundary.

    The paper's argument, drawn: a panel a network, its merged background logit to the right, its
    foreground logit upwards, shifted so that their mean is 0; background orange, foreground green,
    more voxels brighter (logarithmic); above the diagonal a voxel is called foreground.

    Args:
        samples: by caption.
        path: of the PNG.
    """
    spread = {name: _coordinates(sample, merge) for name, sample in samples.items()}
    reach = max(float(pair.abs().quantile(0.999)) for pair in spread.values())
    line = [
        (logit_panel(spread[name], sample.target, reach=reach), name)
        for name, sample in samples.items()
    ]
    with atomic_write(path) as temporary:
        panels([line], [""] * len(line)).save(temporary)
    return Path(path)


def logit_panel(pairs: Tensor, target: Tensor, *, reach: float, side: int = SIDE) -> Tensor:
    """A picture (3, side, side) of (background, foreground) logits (N, 2) within ± `reach`."""
    cell = ((pairs / reach + 1) / 2 * side).long().clamp(0, side - 1)
    place = (side - 1 - cell[:, 1]) * side + cell[:, 0]  # upwards is a higher foreground logit
    picture = torch.ones(3, side, side)
    for label, colour in ((0, FALSE_POSITIVE), (1, HIT)):
        count = torch.bincount(place[target == label], minlength=side * side).float()
        share = (1 + count).log() / (1 + count.max()).log().clamp(min=1e-6)
        paint = torch.tensor(colour).view(3, 1, 1) / 255
        picture = torch.lerp(picture, paint.expand_as(picture), share.view(1, side, side).sqrt())
    step = torch.arange(side)
    picture[:, side - 1 - step, step] = 0.2
    return picture


def _coordinates(sample: LogitSample, merge: Merge) -> Tensor:
    pair = merge_background(
        sample.logits, num_context=sample.num_context, num_classes=2, merge=merge
    )
    return pair - pair.mean(1, keepdim=True)


def _line(row: ContextPicture) -> list[tuple[Tensor, str]]:
    image, target, context, foreground = row.image, row.target, row.context, row.foreground
    extra: list[tuple[Tensor, str]] = []
    name = row.name
    if target.ndim == 3:
        inside = (target > 0) & (target != 255)
        place = int(inside.sum((0, 1)).argmax()) if bool(inside.any()) else target.shape[2] // 2
        extra = [(heat_overlay(grey(image.amax(-1)), foreground.amax(-1)), "")]
        image, context = image[..., place], context[..., place]
        target, foreground = target[..., place], foreground[..., place]
        name = f"{name}, slice {place}"
    picture = grey(image)
    return [
        (picture, name),
        (context_overlay(context, target), ""),
        (heat_overlay(picture, foreground), ""),
        (error_overlay(picture, foreground > row.threshold, target), ""),
        *extra,
    ]


def grey(image: Tensor) -> Tensor:
    """(C, H, W) of any scale as a picture (3, H, W) in [0, 1]: three channels as they are where
    they fit, else the first one stretched from its darkest to its brightest 1%."""
    if len(image) == 3 and float(image.min()) >= 0 and float(image.max()) <= 1:
        return image
    plane = image[0].float()
    low, high = plane.flatten().quantile(torch.tensor([0.01, 0.99])).tolist()
    stretched: Tensor = ((plane - low) / max(high - low, 1e-6)).clamp(0, 1)
    return stretched.expand(3, -1, -1)
