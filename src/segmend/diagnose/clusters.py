"""Kinds of background by appearance, and which of them are taken for objects."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from segmend.diagnose.frame import Frame
from segmend.diagnose.result import BackgroundCluster

BLOCK = 8
"""Side in pixels of the squares that are described, by mean colour and contrast."""
MOST = 40_000
"""Squares kept of a whole set: some 2 MB."""
_HUES = (
    (0.04, "red"), (0.11, "orange"), (0.19, "yellow"), (0.45, "green"), (0.53, "cyan"),
    (0.72, "blue"), (0.80, "violet"), (0.94, "pink"), (1.01, "red"),
)  # fmt: skip


class Background:
    """Squares of background: mean colour (3), contrast, background pixels, false pixels."""

    def __init__(self, num_images: int, *, seed: int) -> None:
        self.most = max(16, MOST // num_images)
        self.seed = seed
        self.rows: list[NDArray[np.float32]] = []

    def add(self, index: int, image: Tensor, frame: Frame) -> None:
        """Image `index`: (3, H, W) in [0, 1]; squares are drawn with the seed."""
        height, width = (side // BLOCK * BLOCK for side in frame.target.shape)
        if not height or not width:
            return
        crop = image[:, :height, :width]
        mean = F.avg_pool2d(crop[None], BLOCK)[0]
        grey = crop.mean(0, keepdim=True)
        spread = F.avg_pool2d((grey * grey)[None], BLOCK)[0] - mean.mean(0, keepdim=True) ** 2
        background = frame.target == 0
        if frame.valid is not None:
            background &= frame.valid
        false = background & (frame.prediction != 0)
        counts = np.stack([_block_sums(m[:height, :width]) for m in (background, false)])
        described = np.concatenate((mean.numpy(), spread.clamp(min=0).sqrt().numpy()))
        rows = np.concatenate((described, counts)).reshape(6, -1).T
        rows = rows[rows[:, 4] > 0]
        if len(rows) > self.most:
            generator = np.random.default_rng([self.seed, index])
            rows = rows[generator.choice(len(rows), self.most, replace=False)]
        self.rows.append(rows.astype(np.float32))

    def clusters(self, count: int) -> tuple[BackgroundCluster, ...]:
        """At most `count` clusters by k-means, the one with the most false pixels first."""
        rows = np.concatenate(self.rows) if self.rows else np.zeros((0, 6), np.float32)
        if not len(rows):
            return ()
        features = rows[:, :4].astype(np.float64)
        features[:, 3] *= 2  # contrast spans less than colour does
        distinct = len(np.unique(features.round(3), axis=0))
        groups = min(count, distinct)
        _, label = kmeans2(features, groups, minit="++", seed=self.seed, missing="warn")
        pixels, false = rows[:, 4].sum(), max(float(rows[:, 5].sum()), 1.0)
        found = []
        for group in np.unique(label):
            mine = rows[label == group]
            own = float(mine[:, 4].sum())
            colour = np.average(mine[:, :3], axis=0, weights=mine[:, 4])
            contrast = float(np.average(mine[:, 3], weights=mine[:, 4]))
            found.append(
                BackgroundCluster(
                    name=colour_words(colour, contrast),
                    colour=(float(colour[0]), float(colour[1]), float(colour[2])),
                    share=own / float(pixels),
                    false_rate=float(mine[:, 5].sum()) / own,
                    share_of_false=float(mine[:, 5].sum()) / false,
                )
            )
        return _numbered(sorted(found, key=lambda c: -c.share_of_false))


def colour_words(colour: NDArray[np.float32], contrast: float) -> str:
    """Such as "dark green, smooth", from a colour in [0, 1] and the deviation of its grey."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in colour))
    surface = "smooth" if contrast < 0.03 else "textured" if contrast < 0.1 else "strongly textured"
    if value < 0.12:
        return f"black, {surface}"
    if saturation < 0.12:
        return f"{'dark grey' if value < 0.4 else 'grey' if value < 0.8 else 'white'}, {surface}"
    name = next(word for limit, word in _HUES if hue < limit)
    if name in ("orange", "yellow", "red") and value < 0.55 and saturation > 0.25:
        name = "brown" if name != "red" or saturation < 0.6 else name
    shade = "dark " if value < 0.4 else "pale " if saturation < 0.3 else ""
    return f"{shade}{name}, {surface}"


def _block_sums(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    height, width = mask.shape
    blocks = mask.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    sums: NDArray[np.float32] = blocks.sum((1, 3), dtype=np.float32)
    return sums


def _numbered(found: list[BackgroundCluster]) -> tuple[BackgroundCluster, ...]:
    """Names that are there twice get a number."""
    from dataclasses import replace

    names = [cluster.name for cluster in found]
    return tuple(
        replace(cluster, name=f"{cluster.name} ({names[: i + 1].count(cluster.name)})")
        if names.count(cluster.name) > 1
        else cluster
        for i, cluster in enumerate(found)
    )
