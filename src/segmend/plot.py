"""Pictures of masks and their errors, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segmend.errors import SegmendError

# Okabe and Ito's palette: told apart under every common colour blindness.
HIT = (0, 158, 115)
FALSE_POSITIVE = (230, 159, 0)
FALSE_NEGATIVE = (204, 121, 167)
IGNORED = (128, 128, 128)
GOLDEN = 0.618034
"""Steps of the golden ratio spread any number of hues evenly."""

HEAT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Five stops of viridis, which keeps its order in grey and for the colour-blind."""

PANEL = 256
"""Height and width, in pixels, of the square that every panel of a sheet is fitted into."""

GAP, HEADER, CAPTION = 8, 28, 22


@dataclass(frozen=True)
class Row:
    """One line of a sheet: an image, its truth, and predictions with a caption each.

    image: float (3, H, W) in [0, 1]; target: int64 (H, W), 255 ignored; predictions: bool or 0/1
    (H, W); captions: one text a prediction.
    """

    name: str
    image: Tensor
    target: Tensor
    predictions: Sequence[Tensor]
    captions: Sequence[str]


def error_overlay(
    image: Tensor, prediction: Tensor, target: Tensor, *, ignore_index: int = 255
) -> Tensor:
    """The image with hits, false positives and false negatives laid over it in colour.

    Args:
        image: float (3, H, W) in [0, 1]. prediction: bool or 0/1 (H, W). target: (H, W) in
            {0, 1, ignore_index}.
    Returns:
        float (3, H, W) in [0, 1]: hits green, false positives orange, false negatives pink,
        ignored pixels grey.
    Raises:
        SegmendError: the sizes differ.
    """
    if not image.shape[1:] == prediction.shape == target.shape:
        raise SegmendError(
            "image, prediction and target: want the same height and width, got "
            f"{tuple(image.shape[1:])}, {tuple(prediction.shape)} and {tuple(target.shape)}"
        )
    found, true = prediction.bool(), target == 1
    ignored = target == ignore_index
    regions = (
        (found & true, HIT, 0.45),
        (found & ~true & ~ignored, FALSE_POSITIVE, 0.8),
        (~found & true, FALSE_NEGATIVE, 0.8),
        (ignored, IGNORED, 0.5),
    )
    # Grey underneath, so that a stain's own colours are not mistaken for an error.
    result = image.mean(0, keepdim=True).expand(3, -1, -1).clone()
    for where, colour, opacity in regions:
        paint = torch.tensor(colour, dtype=result.dtype).view(3, 1, 1) / 255
        result = torch.where(where, torch.lerp(result, paint, opacity), result)
    return result


def label_overlay(image: Tensor, labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """The image in grey with its classes in colour; background stays bare.

    Not in PASCAL VOC's colours: its seventh is grey, and could not be seen.

    Args:
        image: float (3, H, W) in [0, 1]. labels: integer (H, W).
    Returns:
        float (3, H, W) in [0, 1]; ignored pixels are grey.
    """
    palette = torch.tensor([class_colour(label) for label in range(256)])
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)
    paint = palette[labels.long().clamp(0, len(palette) - 1)].permute(2, 0, 1)
    stained = torch.lerp(grey, paint, 0.6)
    ignored = torch.tensor(IGNORED, dtype=grey.dtype).view(3, 1, 1) / 255
    stained = torch.where(labels == ignore_index, torch.lerp(grey, ignored, 0.5), stained)
    return torch.where(labels == 0, grey, stained)


def class_colour(label: int) -> tuple[float, float, float]:
    """A colour for a class, RGB in [0, 1]: neighbours in label are far apart in hue."""
    saturation, value = ((0.9, 1.0), (0.6, 1.0), (0.9, 0.7))[label // 8 % 3]
    return hsv_to_rgb(label * GOLDEN % 1, saturation, value)


def heat_overlay(image: Tensor, heat: Tensor) -> Tensor:
    """The image in grey with a map laid over it: dark violet for 0 to yellow for 1.

    Args:
        image: float (3, H, W) in [0, 1]. heat: float (H, W), clamped to [0, 1].
    """
    stops = torch.tensor(HEAT, dtype=image.dtype) / 255
    place = heat.to(image.dtype).clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp(max=len(stops) - 2)
    share = (place - low).unsqueeze(0)
    colour = torch.lerp(stops[low].permute(2, 0, 1), stops[low + 1].permute(2, 0, 1), share)
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)
    return torch.lerp(grey, colour, 0.6)


def sheet(rows: Sequence[Row], headings: Sequence[str]) -> Image.Image:
    """A table of pictures: image, truth, then every prediction with its errors in colour.

    Args:
        rows: at least one; all with as many predictions as `headings`.
    """
    if not rows or any(len(r.predictions) != len(headings) for r in rows):
        raise SegmendError("sheet: want at least one row, each with a prediction a heading")
    lines = [list(zip(_pictures(row), [row.name, "", *row.captions], strict=True)) for row in rows]
    legend = {"hit": HIT, "false positive": FALSE_POSITIVE, "false negative": FALSE_NEGATIVE}
    return panels(lines, ["image", "truth", *headings], legend=legend)


def panels(
    lines: Sequence[Sequence[tuple[Tensor, str]]],
    columns: Sequence[str],
    *,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> Image.Image:
    """Pictures, float (3, H, W) in [0, 1], in lines, each with a caption; columns have headings."""
    drawn = [[(_panel(picture), text) for picture, text in line] for line in lines]
    heights = [max(p.height for p, _ in line) + CAPTION + GAP for line in drawn]
    width = len(columns) * (PANEL + GAP) + GAP
    canvas = Image.new("RGB", (width, HEADER + sum(heights) + HEADER * bool(legend)), "white")
    draw = ImageDraw.Draw(canvas)
    title, small = ImageFont.load_default(16), ImageFont.load_default(13)
    for column, heading in enumerate(columns):
        draw.text((GAP + column * (PANEL + GAP), 5), heading, fill="black", font=title)
    top = HEADER
    for line, height in zip(drawn, heights, strict=True):
        for column, (panel, text) in enumerate(line):
            left = GAP + column * (PANEL + GAP)
            canvas.paste(panel, (left, top))
            draw.text((left, top + panel.height + 3), text, fill="black", font=small)
        top += height
    _legend(draw, canvas.height - HEADER + 5, small, legend or {})
    return canvas


def _pictures(row: Row) -> list[Tensor]:
    """Image, truth, and every prediction with its errors."""
    truth = error_overlay(row.image, row.target == 1, row.target)
    return [
        row.image,
        truth,
        *(error_overlay(row.image, p, row.target) for p in row.predictions),
    ]


def _panel(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    image = Image.fromarray(pixels.numpy())
    scale = PANEL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _legend(
    draw: ImageDraw.ImageDraw,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    entries: Mapping[str, tuple[int, int, int]],
) -> None:
    left = GAP
    for text, colour in entries.items():
        draw.rectangle((left, top, left + 14, top + 14), fill=colour)
        draw.text((left + 20, top - 1), text, fill="black", font=font)
        left += 40 + round(draw.textlength(text, font=font))
