"""One procedural scene: materials, decoys and objects painted over each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segmend.data.shapes import SHAPES, shape_mask
from segmend.data.textures import TEXTURES, paint, smooth_noise, texture

_GOLDEN = 0.618034  # steps of the golden ratio spread any number of hues evenly


@dataclass(frozen=True)
class SceneOptions:
    """What `make_scenes` documents, without count and seed."""

    size: tuple[int, int]
    num_classes: int
    cooccurrence: float
    distractors: int
    empty: float
    noise: float


@dataclass
class _Canvas:
    image: NDArray[np.float32]
    target: NDArray[np.int64]
    rng: np.random.Generator


def paint_scene(
    options: SceneOptions, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Image float32 (3, H, W) in [0, 1] and target int64 (H, W) of one scene."""
    size, num_classes = options.size, options.num_classes
    canvas = _Canvas(_background(size, rng), np.zeros(size, dtype=np.int64), rng)
    nothing = rng.random() < options.empty
    labels = [] if nothing else _draw_labels(num_classes, options.cooccurrence, rng)
    for order in range(options.distractors):
        _add_decoy(canvas, labels, num_classes, like_a_class=order == 0)
    for label in labels:
        surface, shape, hue = class_look(label)
        _add(canvas, shape, surface, hue, label=label)
    noise = rng.normal(0.0, options.noise, canvas.image.shape)
    return np.clip(canvas.image + noise, 0.0, 1.0).astype(np.float32), canvas.target


def class_look(label: int) -> tuple[str, str, float]:
    """Surface, shape and hue of a class; surface and shape repeat after 32 classes, hues never."""
    turn, shape = divmod(label - 1, len(SHAPES))
    return TEXTURES[(shape + turn) % len(TEXTURES)], SHAPES[shape], label * _GOLDEN


def _draw_labels(num_classes: int, cooccurrence: float, rng: np.random.Generator) -> list[int]:
    """One or two classes, each perhaps with its partner, in random order of painting."""
    labels: list[int] = []
    for label in rng.integers(1, num_classes, size=rng.integers(1, 3)).tolist():
        partner = label + 1 if label % 2 else label - 1
        labels.append(label)
        if rng.random() < cooccurrence and partner < num_classes:
            labels.append(partner)
    return [labels[i] for i in rng.permutation(len(labels))]


def _background(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Three materials of low saturation with wavy borders, under uneven light."""
    region = smooth_noise(size=size, cell=max(size) / 3.0, rng=rng)
    image = np.zeros((3, *size), dtype=np.float32)
    edges = np.quantile(region, [0.0, *np.sort(rng.uniform(0.2, 0.8, size=2))])
    for edge in edges:
        surface = texture(str(rng.choice(TEXTURES)), size=size, rng=rng)
        tone = paint(surface, hue=rng.random(), saturation=0.25, brightness=rng.uniform(0.35, 0.8))
        image = np.where(region >= edge, tone, image)
    light = 0.8 + 0.4 * smooth_noise(size=size, cell=float(max(size)), rng=rng)
    lit: NDArray[np.float32] = (image * light).astype(np.float32)
    return lit


def _add_decoy(canvas: _Canvas, labels: list[int], num_classes: int, *, like_a_class: bool) -> None:
    """Background like a class: its surface and hue in another shape, or its shape in grey."""
    absent = [c for c in range(1, num_classes) if c not in labels] or list(range(1, num_classes))
    surface, shape, hue = class_look(int(canvas.rng.choice(absent)))
    others = [name for name in SHAPES if name != shape]
    if like_a_class:
        _add(canvas, str(canvas.rng.choice(others)), surface, hue, label=0)
    else:
        _add(canvas, shape, str(canvas.rng.choice(TEXTURES)), hue, label=0, saturation=0.15)


def _add(
    canvas: _Canvas, shape: str, surface: str, hue: float, *, label: int, saturation: float = 0.8
) -> None:
    """Paint one object where at least its centre is inside the image."""
    rng = canvas.rng
    size = (canvas.target.shape[0], canvas.target.shape[1])
    mask = shape_mask(
        shape,
        size=size,
        centre=(rng.uniform(0.15, 0.85) * size[0], rng.uniform(0.15, 0.85) * size[1]),
        radius=rng.uniform(0.14, 0.28) * min(size),
        angle=rng.uniform(0.0, 2.0 * np.pi),
    )
    grey = texture(surface, size=size, rng=rng)
    tone = paint(
        grey, hue=hue + rng.normal(0.0, 0.02), saturation=saturation,
        brightness=rng.uniform(0.65, 0.95),
    )  # fmt: skip
    canvas.image = np.where(mask, tone, canvas.image)
    canvas.target = np.where(mask, label, canvas.target)
