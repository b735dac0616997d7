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
from segmend.plot import class_colour, error_overlay, heat_overlay, panels

PANEL = (160, 256)
"""Height and width of a panel of margins, in pixels."""


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

    The paper's argument, drawn: a panel a network, of its margins, foreground logit minus merged
    background logit. Bars are background, in the colours of their strongest context as in
    `context_overlay`; the dark line is foreground; heights are logarithms of counts. What lies
    right of the grey line is called foreground; captions say how much of the background is. All
    panels have the same axis, three quarters of it left of the line; what is further off is not
    drawn.

    Args:
        samples: by caption.
        path: of the PNG.
    """
    margins = {name: _margins(sample, merge) for name, sample in samples.items()}
    reach = max(1e-6, *(float(values.quantile(0.999)) for values in margins.values()))
    line = []
    for name, sample in samples.items():
        context = strongest_context(sample)
        panel = margin_panel(margins[name], sample.target, context, span=(-3 * reach, reach))
        beyond = float((margins[name][sample.target == 0] > 0).float().mean())
        line.append((panel, f"background beyond: {1e4 * beyond:.0f} in 10 000"))
    with atomic_write(path) as temporary:
        panels([line], list(samples)).save(temporary)
    return Path(path)


def margin_panel(
    margins: Tensor,
    target: Tensor,
    context: Tensor,
    *,
    span: tuple[float, float],
    size: tuple[int, int] = PANEL,
    bar: int = 2,
) -> Tensor:
    """A histogram (3, *size) of margins (N,), of both classes; see `draw_logits`.

    Args:
        target: 0 or 1, context: from 0, both (N,).
        span: margins at the left and right border.
        bar: width of a bar in pixels.
    """
    height, bars = size[0], size[1] // bar
    low, high = span
    scale = bars / (high - low)
    place = ((margins - low) * scale).floor().long()
    inside = (place >= 0) & (place < bars)

    def counts(chosen: Tensor) -> Tensor:
        return torch.bincount(place[inside & chosen], minlength=bars)

    contexts = range(int(context.max()) + 1)
    background = torch.stack([counts((target == 0) & (context == k)) for k in contexts])
    total, foreground = background.sum(0), counts(target == 1)
    most = (1 + torch.stack([total, foreground]).max()).log().clamp(min=1e-6)
    tops = background.cumsum(0) / total.clamp(min=1) * (1 + total).log() / most
    outline = (1 + foreground).log() / most
    before = torch.cat((outline[:1], outline[:-1]))

    rows = (torch.arange(height, 0, -1) - 0.5).view(-1, 1) / height  # the first one is the highest
    picture = torch.ones(3, height, bars)
    for k in reversed(contexts):
        paint = torch.tensor(class_colour(k + 1)).view(3, 1, 1)
        picture = torch.where(rows < tops[k], paint, picture)
    near = 1.5 / height
    line = (rows > torch.minimum(outline, before) - near) & (
        rows < torch.maximum(outline, before) + near
    )
    picture = torch.where(line & (torch.maximum(outline, before) > 0), 0.1, picture)
    picture = picture.repeat_interleave(bar, 2)
    picture[:, :, min(picture.shape[2] - 1, max(0, round(-low * scale * bar)))] = 0.5
    return picture


def strongest_context(sample: LogitSample) -> Tensor:
    """The context whose logit is highest, from 0: int64 (N,)."""
    later = sample.logits[:, 2 : sample.num_context + 1]  # channel 1 is the foreground
    return torch.cat((sample.logits[:, :1], later), dim=1).argmax(1)


def _margins(sample: LogitSample, merge: Merge) -> Tensor:
    pair = merge_background(
        sample.logits, num_context=sample.num_context, num_classes=2, merge=merge
    )
    return pair[:, 1] - pair[:, 0]


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
