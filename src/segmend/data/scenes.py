"""Procedural images with masks and tags, for tests and demos where real data may not be shipped.

They are built to be hard in the ways that segmend is about: classes that come in pairs (tags alone
cannot tell them apart), a background of several materials, and decoys in it that share shape or
surface with a class but belong to the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from segmend.data.files import write_json, write_text
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.scene_painting import SceneOptions, class_look, paint_scene
from segmend.data.voc import tags_of
from segmend.errors import SegmendError

_SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


class ScenesJob(BaseModel):
    """Settings of `segmend data scenes`; see `make_scenes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(100, ge=1, description="Images to draw.")
    size: tuple[int, int] = Field((96, 96), description="Height and width in pixels.")
    num_classes: int = Field(5, ge=2, le=255, description="Classes, background included.")
    seed: int = Field(0, ge=0)
    cooccurrence: float = Field(0.6, ge=0, le=1)
    distractors: int = Field(3, ge=0)
    empty: float = Field(0.05, ge=0, le=1)
    noise: float = Field(0.03, ge=0)


@dataclass(frozen=True)
class Scene:
    """One procedural item.

    Attributes:
        image: float32 (3, H, W) in [0, 1].
        target: int64 (H, W), 0 background, 1 .. num_classes - 1.
        tags: int64 (num_classes - 1,) in {0, 1}: the foreground classes that `target` shows.
    """

    image: Tensor
    target: Tensor
    tags: Tensor


def make_scenes(
    count: int,
    *,
    size: tuple[int, int] = (96, 96),
    num_classes: int = 5,
    seed: int = 0,
    cooccurrence: float = 0.6,
    distractors: int = 3,
    empty: float = 0.05,
    noise: float = 0.03,
) -> Iterator[Scene]:
    """Draw `count` scenes one after the other; scene i of a seed is the same for any `count`.

    Class c has shape, surface and hue of its own, the same in every scene and for every seed.

    Args:
        size: (H, W), pixels, each 16 or more.
        num_classes: background included, 2 to 255.
        seed: of the whole set; scene i draws from the pair (seed, i).
        cooccurrence: probability that class 2k - 1 brings along its partner 2k, and the reverse.
        distractors: decoys in the background; the first resembles a class that is not tagged.
        empty: share of scenes without any object.
        noise: standard deviation of the pixel noise, on the scale of [0, 1].
    Raises:
        SegmendError: an option outside its range.
    """
    _check(count, size, num_classes, cooccurrence, empty)
    if distractors < 0 or noise < 0 or seed < 0:
        raise SegmendError(
            f"distractors, noise, seed: want 0 or more, got {distractors}, {noise}, {seed}"
        )
    options = SceneOptions(size, num_classes, cooccurrence, distractors, empty, noise)
    return (_scene(options, seed=seed, index=index) for index in range(count))


def write_scenes(
    out: str | Path,
    count: int,
    *,
    size: tuple[int, int] = (96, 96),
    num_classes: int = 5,
    seed: int = 0,
    cooccurrence: float = 0.6,
    distractors: int = 3,
    empty: float = 0.05,
    noise: float = 0.03,
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Write scenes in the PASCAL VOC layout that `VOCFolder` reads; returns the folder `out`.

    JPEGImages/ID.png (8 bits, lossless), SegmentationClass/ID.png (palette),
    ImageSets/Segmentation/SPLIT.txt, classes.json and tags.json (ID -> names of its classes).

    `splits` maps names to shares of `count`, in order; by default 60% train, 20% val, 20% test.
    The other options are those of `make_scenes`. Raises SegmendError as it does, and where `out`
    is not writable.
    """
    out = Path(out)
    names = class_names(num_classes)
    scenes = make_scenes(count, size=size, num_classes=num_classes, seed=seed,
                         cooccurrence=cooccurrence, distractors=distractors, empty=empty,
                         noise=noise)  # fmt: skip
    lists = _split([f"scene_{i:05d}" for i in range(count)], _SPLITS if splits is None else splits)
    tags = {}
    for index, scene in enumerate(scenes):
        name = f"scene_{index:05d}"
        write_image(out / "JPEGImages" / f"{name}.png", scene.image)
        write_mask(out / "SegmentationClass" / f"{name}.png", scene.target, encoding="palette")
        tags[name] = [names[c + 1] for c in scene.tags.nonzero().flatten().tolist()]
    write_json(out / "classes.json", {"classes": names, "ignore_index": 255})
    write_json(out / "tags.json", tags)
    for split, members in lists.items():
        text = "".join(f"{member}\n" for member in members)
        write_text(out / "ImageSets/Segmentation" / f"{split}.txt", text)
    return out


def class_names(num_classes: int) -> list[str]:
    """Names of the classes: "background", then surface and shape, "noise disc"."""
    return ["background", *(" ".join(class_look(c)[:2]) for c in range(1, num_classes))]


def _scene(options: SceneOptions, *, seed: int, index: int) -> Scene:
    image, labels = paint_scene(options, np.random.default_rng([seed, index]))
    target = torch.from_numpy(labels)
    tags = tags_of(target, num_classes=options.num_classes)
    return Scene(torch.from_numpy(image), target, tags)


def _split(names: list[str], splits: Mapping[str, float]) -> dict[str, list[str]]:
    total = sum(splits.values())
    if not splits or min(splits.values()) < 0 or not 0 < total <= 1 + 1e-9:
        raise SegmendError(f"splits: want shares of 0 or more that sum to at most 1, got {splits}")
    ends = np.rint(np.cumsum(list(splits.values())) * len(names)).astype(int).tolist()
    return {
        split: names[start:end] for split, start, end in zip(splits, [0, *ends], ends, strict=False)
    }


def _check(
    count: int, size: tuple[int, int], num_classes: int, cooccurrence: float, empty: float
) -> None:
    if count < 0:
        raise SegmendError(f"count: want 0 or more, got {count}")
    if len(size) != 2 or min(size) < 16:
        raise SegmendError(f"size: want (H, W) of 16 pixels or more each, got {size}")
    if not 2 <= num_classes <= 255:
        raise SegmendError(f"num_classes: want 2 .. 255, background included, got {num_classes}")
    if not (0.0 <= cooccurrence <= 1.0 and 0.0 <= empty <= 1.0):
        raise SegmendError(
            f"cooccurrence, empty: want probabilities in [0, 1], got {cooccurrence}, {empty}"
        )
