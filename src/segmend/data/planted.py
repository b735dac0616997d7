"""Predictions with known errors: what a diagnosis has to find, and what it has to keep silent on.

A made-up model sees procedural scenes perfectly but for the errors that are planted in it, each at
a known strength.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmend.data import planted_errors as errors
from segmend.data.scenes import Scene, make_scenes
from segmend.errors import SegmendError

KINDS = (
    "perfect", "noise", "patch-bias", "erosion", "leak", "out-of-candidate", "missed",
    "miscalibration",
)  # fmt: skip
"""What can be planted; "perfect" and "noise" are no systematic errors."""


@dataclass(frozen=True)
class Planted:
    """Predictions with known errors.

    Attributes:
        probs: float32 (C, H, W) in [0, 1], one a scene; C = 1 in a binary problem.
        targets: int64 (H, W).
        images: float32 (3, H, W) in [0, 1].
        candidates: bool (num_classes,), the classes of each image, background included; None in a
            binary problem.
        strengths: what was planted, kind -> strength.
    """

    probs: list[Tensor]
    targets: list[Tensor]
    images: list[Tensor]
    candidates: list[Tensor] | None
    strengths: dict[str, float]


def plant(
    kind: str | Mapping[str, float],
    *,
    count: int = 16,
    size: tuple[int, int] = (96, 96),
    num_classes: int = 2,
    seed: int = 0,
    strength: float = 0.5,
) -> Planted:
    """Predictions of procedural scenes with one known error, or with several mixed.

    - "patch-bias": an offset of the logits by place, the same in all images.
    - "erosion": outlines too tight or too wide, surely so (which of the two hangs on the seed).
    - "leak": patches of one kind of background taken for an object, beside objects and apart.
    - "out-of-candidate": objects called a class that the image has not (more than two classes).
    - "missed": whole objects taken for background.
    - "miscalibration": one offset and temperature for all, so that one half is the wrong threshold.
    - "noise": smooth noise of mean 0 on the logits, another in every image.
    - "perfect": nothing.

    Args:
        kind: one of `KINDS`, planted at `strength`; or a mapping of kinds to their strengths.
        count: scenes. size: (H, W), pixels.
        num_classes: background included; 2 gives a binary problem of one probability channel.
        seed: of scenes and errors; an error grows with its strength and keeps its place.
        strength: in [0, 1], 0 for none; 1 moves outlines by 5 pixels, drops 70% of the objects,
            adds 4 logits.
    Raises:
        SegmendError: an unknown kind, a strength outside [0, 1], "out-of-candidate" with fewer
            than three classes.
    """
    strengths = {kind: strength} if isinstance(kind, str) else dict(kind)
    _check(strengths, num_classes)
    # A binary problem has objects of several looks, too.
    classes = 5 if num_classes == 2 else num_classes
    rows = [
        _predict(scene, strengths, num_classes=num_classes, seed=seed, index=i)
        for i, scene in enumerate(_scenes(count, size, classes, seed))
    ]
    return Planted(
        probs=[torch.from_numpy(row[0]) for row in rows],
        targets=[torch.from_numpy(row[1].copy()) for row in rows],
        images=[torch.from_numpy(row[2].copy()) for row in rows],
        candidates=[_candidates(row[1], num_classes) for row in rows] if num_classes > 2 else None,
        strengths=strengths,
    )


@lru_cache(maxsize=1)
def _scenes(count: int, size: tuple[int, int], num_classes: int, seed: int) -> tuple[Scene, ...]:
    """The scenes, kept for the next error that is planted in them; nothing writes to them."""
    return tuple(make_scenes(count, size=size, num_classes=num_classes, seed=seed))


def _predict(
    scene: Scene, strengths: Mapping[str, float], *, num_classes: int, seed: int, index: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Probabilities, truth and image of one scene."""
    truth: NDArray[np.int64] = scene.target.numpy()
    truth = (truth > 0).astype(np.int64) if num_classes == 2 else truth
    belief = errors.Belief(truth.copy(), scene.image.numpy(), np.full(truth.shape, -1, np.int64))
    of_set = np.random.default_rng([seed, 91])  # what all images share
    hue, way, side = of_set.random(), of_set.random() < 0.5, of_set.random() < 0.5
    temperature, cell = of_set.uniform(-0.5, 0.5), of_set.uniform(5.0, 9.0)
    field = errors.place_field((truth.shape[0], truth.shape[1]), of_set)

    def rng(kind: str) -> np.random.Generator:
        return np.random.default_rng([seed, index, KINDS.index(kind)])

    if (s := strengths.get("missed", 0.0)) > 0:
        errors.missed(belief, s, rng("missed"))
    if (s := strengths.get("out-of-candidate", 0.0)) > 0:
        errors.out_of_candidate(belief, s, rng("out-of-candidate"), num_classes=num_classes)
    if (s := strengths.get("leak", 0.0)) > 0:
        errors.leak(belief, s, rng("leak"), hue=hue)
    logits = errors.logits_of(belief, num_classes)
    if (s := strengths.get("erosion", 0.0)) > 0:
        errors.erosion(logits, s, grow=bool(way))
    if (s := strengths.get("noise", 0.0)) > 0:
        errors.add_noise(logits, s, rng("noise"), cell=cell)
    if (s := strengths.get("patch-bias", 0.0)) > 0:
        errors.shift(logits, 2 * s * errors.LARGEST_OFFSET * field)
    if (s := strengths.get("miscalibration", 0.0)) > 0:
        logits *= np.exp(s * temperature)
        errors.shift(logits, s * errors.LARGEST_OFFSET * (1 if side else -1))
    return _probabilities(logits), truth, belief.image


def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over classes; of two classes the second's channel alone."""
    grown = np.exp(logits - logits.max(axis=0))
    probs: NDArray[np.float32] = (grown / grown.sum(axis=0)).astype(np.float32)
    return probs[1:] if len(probs) == 2 else probs


def _candidates(truth: NDArray[np.int64], num_classes: int) -> Tensor:
    found = torch.zeros(num_classes, dtype=torch.bool)
    found[0] = True
    found[torch.from_numpy(np.unique(truth))] = True
    return found


def _check(strengths: Mapping[str, float], num_classes: int) -> None:
    unknown = [kind for kind in strengths if kind not in KINDS]
    if unknown or not strengths:
        raise SegmendError(f"kind: want one or more of {', '.join(KINDS)}; got {unknown}")
    for kind, strength in strengths.items():
        if not 0 <= strength <= 1:
            raise SegmendError(f"strength of {kind}: want 0 to 1, got {strength}")
    if num_classes < 2:
        raise SegmendError(f"num_classes: want 2 or more, background included, got {num_classes}")
    if "out-of-candidate" in strengths and num_classes < 3:
        raise SegmendError(
            f"out-of-candidate: wants num_classes of 3 or more, so that an image can lack one; "
            f"got {num_classes}"
        )
