"""Small pictures of cases: image, truth, prediction and where they differ."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image, features
from torch import Tensor

from segmend.diagnose.case import Case
from segmend.plot import FALSE_NEGATIVE, FALSE_POSITIVE, HIT, IGNORED, class_colour, heat_overlay

SIDE = 288
"""Height and width, in pixels, of the square that a picture is fitted into."""
CONFUSED = (86, 180, 233)
"""Foreground called a foreground class that it is not: Okabe and Ito's sky blue."""
LEGEND = {
    "hit": HIT,
    "false positive": FALSE_POSITIVE,
    "false negative": FALSE_NEGATIVE,
    "wrong class": CONFUSED,
    "not counted": IGNORED,
}
BLANK = 0.5
QUALITY = 78


@dataclass(frozen=True)
class Picture:
    """One encoded picture. `media_type`: "image/webp", or "image/jpeg" where Pillow lacks WebP."""

    data: bytes
    media_type: str
    width: int
    height: int

    def uri(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


def flat(case: Case) -> tuple[Case, int | None]:
    """The case itself, or of a volume the slice along the last axis with most errors, and which."""
    if case.prediction.ndim == 2:
        return case, None
    wrong = (case.prediction != case.target) & case.valid
    present = case.target > 0
    votes = wrong.flatten(0, 1).sum(0) * 1_000_000 + present.flatten(0, 1).sum(0)
    at = int(votes.argmax())
    return Case(
        case.name,
        case.prediction[..., at],
        case.target[..., at],
        case.valid[..., at],
        None if case.probs is None else case.probs[..., at],
        case.image[..., at] if case.image is not None and case.image.ndim == 4 else case.image,
        case.candidates,
    ), at


def input_picture(case: Case) -> Tensor:
    """The image; failing that the foreground's probability; failing that plain grey."""
    if case.image is not None:
        return case.image.float()
    if case.probs is not None:
        foreground = case.probs[0] if len(case.probs) == 1 else 1 - case.probs[0]
        return heat_overlay(ground(case), foreground.float())
    return ground(case)


def ground(case: Case) -> Tensor:
    """What masks are laid over: the image in grey, or plain grey."""
    if case.image is not None:
        return case.image.float().mean(0, keepdim=True).expand(3, -1, -1)
    return torch.full((3, *case.target.shape), BLANK)


def labels_picture(case: Case, labels: Tensor, num_classes: int) -> Tensor:
    """Labels over the image: one colour for binary masks, one a class otherwise."""
    result = ground(case)
    for label in torch.unique(labels).tolist():
        if label > 0:
            colour = HIT if num_classes <= 2 else tuple(255 * c for c in class_colour(label))
            result = paint(result, labels == label, colour, 0.6)
    return paint(result, ~case.valid, IGNORED, 0.5)


def error_picture(case: Case) -> Tensor:
    """Where prediction and truth agree and differ, in the colours of `LEGEND`."""
    found, true, wrong = case.prediction > 0, case.target > 0, case.prediction != case.target
    regions = (
        (found & true & ~wrong, HIT, 0.45),
        (found & ~true, FALSE_POSITIVE, 0.8),
        (~found & true, FALSE_NEGATIVE, 0.8),
        (found & true & wrong, CONFUSED, 0.8),
    )
    result = ground(case)
    for where, colour, opacity in regions:
        result = paint(result, where & case.valid, colour, opacity)
    return paint(result, ~case.valid, IGNORED, 0.5)


def paint(picture: Tensor, where: Tensor, colour: tuple[float, ...], opacity: float) -> Tensor:
    """`picture` (3, H, W) with one colour, 0 to 255, laid over it where bool (H, W) says so."""
    tint = torch.tensor(colour, dtype=picture.dtype).view(3, 1, 1) / 255
    return torch.where(where, torch.lerp(picture, tint, opacity), picture)


def encode(picture: Tensor, *, side: int = SIDE) -> Picture:
    """A picture, float (3, H, W) in [0, 1], fitted into a square of `side` pixels and compressed.

    Larger ones are reduced by averaging, so that thin errors stay visible; of smaller ones each
    pixel becomes a square, so that they are not blurred when shown larger.
    """
    pixels = (picture.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    elif scale >= 2:
        size = (int(scale) * image.width, int(scale) * image.height)
        image = image.resize(size, Image.Resampling.NEAREST)
    name = "webp" if features.check("webp") else "jpeg"
    file = BytesIO()
    image.save(file, name, quality=QUALITY)
    return Picture(file.getvalue(), f"image/{name}", image.width, image.height)


def draw(case: Case, kind: str, num_classes: int) -> Tensor:
    """One of "image", "truth", "prediction" and "errors" of a case in two dimensions."""
    if kind == "image":
        return input_picture(case)
    if kind == "truth":
        return labels_picture(case, case.target, num_classes)
    if kind == "prediction":
        return labels_picture(case, case.prediction, num_classes)
    return error_picture(case)


KINDS = ("image", "truth", "prediction", "errors")
