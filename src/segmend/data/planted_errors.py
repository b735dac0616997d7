"""One systematic error each, done to believed labels or to logits: what `planted.plant` plants.

Every random choice is drawn before the strength is looked at, so that a seed's error grows with the
strength: what is wrong at .3 is wrong at .6, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segmend.data.shapes import shape_mask
from segmend.data.textures import paint, smooth_noise, texture

Labels = NDArray[np.int64]
Logits = NDArray[np.float32]
Picture = NDArray[np.float32]

FAR = 5.0
"""Pixels from an outline at which a belief is as sure as it gets: one logit a pixel."""
WIDEST_BAND = 5.0
"""Pixels that strength 1 takes off an outline, or adds to it."""
LARGEST_OFFSET = 4.0
"""Logits that strength 1 adds everywhere; patch bias adds twice that at the worst place."""
NOISE = 2.0
"""Standard deviation of strength 1's noise, in logits."""


@dataclass
class Belief:
    """What the made-up model thinks of one image: labels, and where a second guess is the truth."""

    labels: Labels
    image: Picture
    second: Labels  # -1, or the class that comes second there


def leak(belief: Belief, strength: float, rng: np.random.Generator, *, hue: float) -> None:
    """Patches of one kind of background are taken for an object, beside objects and away from them.

    The kind has a hue of its own, the same in all images, and is painted into the image.
    """
    labels = belief.labels
    size = (labels.shape[0], labels.shape[1])
    truth = labels.copy()
    for touching in (True, False):
        chance, spot = rng.random(), rng.random()
        radius = rng.uniform(0.12, 0.2) * min(size) * (0.5 + 0.5 * strength)
        away = ndimage.distance_transform_edt(truth == 0) if truth.any() else np.full(size, FAR)
        allowed = (away > 1) & (away < 0.7 * radius) if touching else away > radius + 3
        rows, columns = np.nonzero(allowed)
        shape = ("disc", "ellipse", "rectangle")[int(3 * rng.random())]
        angle = rng.uniform(0, 2 * np.pi)
        grey = texture("checker", size=size, rng=rng)
        if not len(rows) or chance >= 0.25 + 0.75 * strength:
            continue
        pick = int(spot * len(rows))
        centre = (float(rows[pick]), float(columns[pick]))
        blob = shape_mask(shape, size=size, centre=centre, radius=radius, angle=angle)
        blob &= truth == 0
        labels[blob] = nearest_class(truth, centre)
        tone = paint(grey, hue=hue, saturation=0.5, brightness=0.7)
        belief.image = np.where(blob, tone, belief.image)


def nearest_class(labels: Labels, place: tuple[float, float]) -> int:
    """The class of the object nearest to a place; 1 where there is none."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return 1
    nearest = int(np.argmin((rows - place[0]) ** 2 + (columns - place[1]) ** 2))
    return int(labels[rows[nearest], columns[nearest]])


def missed(belief: Belief, strength: float, rng: np.random.Generator) -> None:
    """Whole objects are taken for background."""
    for part in _objects(belief.labels):
        if rng.random() < 0.7 * strength:
            belief.labels[part] = 0


def out_of_candidate(
    belief: Belief, strength: float, rng: np.random.Generator, *, num_classes: int
) -> None:
    """Objects, or one side of them, are called a class that the image has not; the truth comes
    second."""
    present = set(np.unique(belief.labels).tolist())
    absent = [c for c in range(1, num_classes) if c not in present]
    for part in _objects(belief.labels):
        chance, which, share = rng.random(), rng.random(), rng.uniform(0.5, 1.5)
        if not absent or chance >= strength:
            continue
        columns = np.nonzero(part)[1]
        side = np.arange(part.shape[1]) <= np.quantile(columns, min(1.0, share))
        region = part & side[None]
        belief.second[region] = belief.labels[region]
        belief.labels[region] = absent[int(which * len(absent))]


def logits_of(belief: Belief, num_classes: int) -> Logits:
    """Logits (C, H, W): half the distance to the class's outline, at most `FAR` pixels of it.

    The class of the labels leads everywhere, by a logit a pixel of depth.
    """
    labels = belief.labels
    logits: Logits = np.full((num_classes, *labels.shape), -FAR, np.float32)
    for c in np.unique(labels).tolist():
        logits[c] = signed_distance(labels == c)
    np.clip(logits, -FAR, FAR, out=logits)
    logits /= 2
    for c in np.unique(belief.second[belief.second >= 0]).tolist():
        region = belief.second == c
        first = np.take_along_axis(logits, labels[None], axis=0)[0]
        logits[c][region] = np.maximum(first[region] - 1.0, logits[0][region] + 0.5)
        lead = first[region] <= logits[c][region]
        # Near the outline the second guess would lead; the error is what is planted.
        logits[c][region] -= np.where(lead, logits[c][region] - first[region] + 0.05, 0)
    return logits


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels to the outline, positive inside; half a pixel at the pixels beside it."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, FAR if mask.all() else -FAR, np.float32)
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    found: NDArray[np.float32] = (inside - outside - 0.5 * np.sign(inside - outside)).astype(
        np.float32
    )
    return found


def erosion(logits: Logits, strength: float, *, grow: bool) -> None:
    """A band inside every outline is surely called background; or one outside surely an object.

    Surely: by 6 logits, so that no threshold mends it.
    """
    band = WIDEST_BAND * strength
    lead = logits[1:].max(axis=0) - logits[0]
    leader = 1 + logits[1:].argmax(axis=0)
    region = (lead < 0) & (lead > -band) if grow else (lead > 0) & (lead < band)
    push = np.where(region, 3.0 if grow else -3.0, 0.0).astype(np.float32)
    logits[0] -= push
    for c in np.unique(leader[region]).tolist():
        logits[c] += np.where(leader == c, push, 0)


def add_noise(logits: Logits, strength: float, rng: np.random.Generator, *, cell: float) -> None:
    """Smooth noise of mean 0, another in every image and class."""
    size = (logits.shape[1], logits.shape[2])
    for channel in logits:
        wave = smooth_noise(size=size, cell=cell, rng=rng) - 0.5
        # The standard deviation of such noise is about .2; two channels make a difference.
        channel += strength * NOISE * wave / (0.2 * np.sqrt(2))


def place_field(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """An offset by place (H, W), mean 0, at most +-1: up in parts of the frame, down in others."""
    turn, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    waves = rng.uniform(0.8, 1.5)
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    field = np.sin(2 * np.pi * waves * (np.cos(turn) * x + np.sin(turn) * y) + phase)
    field -= field.mean()
    found: NDArray[np.float32] = (field / np.abs(field).max()).astype(np.float32)
    return found


def shift(logits: Logits, offset: NDArray[np.float32] | float) -> None:
    """Raise every object's logit against background's."""
    logits[0] -= offset / 2
    logits[1:] += offset / 2


def _objects(labels: Labels) -> list[NDArray[np.bool_]]:
    """Connected parts of one class, 12 pixels or more."""
    found = []
    for c in np.unique(labels[labels > 0]).tolist():
        parts, count = ndimage.label(labels == c)
        found += [parts == i for i in range(1, count + 1)]
    return [part for part in found if part.sum() >= 12]
