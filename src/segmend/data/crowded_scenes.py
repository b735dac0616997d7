"""Procedural scans with small targets in a crowded background, in 2D and 3D.

The background is made of several structures: organs of different brightness, bright vessels,
specks, and cysts that look like the target. A target is told from a cyst by where it lies (inside
the first organ) and by its mottled inside and bright rim, so that a network has to learn what the
background is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segmend.data.files import write_json
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.nifti import write_volume
from segmend.errors import SegmendError

STRUCTURES = ("tissue", "organ", "vessel", "cyst", "speck")
"""What the background is made of: the labels of `CrowdedScene.structures`, from 0."""

SPLITS = ("train", "val", "test")

Grid = NDArray[np.float32]


@dataclass(frozen=True)
class CrowdedScene:
    """One scan.

    image: float32 (1, H, W) or (1, H, W, D) in [0, 1]. target: int64, 1 where a target is.
    structures: int64, what the background is made of (under a target: the organ it lies in).
    """

    image: Tensor
    target: Tensor
    structures: Tensor


def make_crowded_scenes(
    count: int,
    *,
    size: tuple[int, ...] = (96, 96),
    seed: int = 0,
    empty: float = 0.1,
    likeness: float = 0.8,
    noise: float = 0.03,
) -> Iterator[CrowdedScene]:
    """Draw `count` scans one after the other; scan i of a seed is the same for any `count`.

    Args:
        size: (H, W) or (H, W, D), each 16 or more; targets take about 1% of it.
        seed: of the whole set; scan i draws from the pair (seed, i).
        empty: share of scans without a target.
        likeness: how far cysts resemble targets: 0 differs in brightness and surface, 1 in place
            alone.
        noise: standard deviation of the noise on the scale of [0, 1].
    Raises:
        SegmendError: an option outside its range.
    """
    if count < 0 or seed < 0 or noise < 0:
        raise SegmendError(f"count, seed, noise: want 0 or more, got {count}, {seed}, {noise}")
    if len(size) not in (2, 3) or min(size) < 16:
        raise SegmendError(f"size: want (H, W) or (H, W, D) of 16 or more each, got {size}")
    if not (0 <= empty <= 1 and 0 <= likeness <= 1):
        raise SegmendError(f"empty, likeness: want shares in [0, 1], got {empty}, {likeness}")
    return (
        _Scene(size, np.random.default_rng([seed, index])).paint(empty, likeness, noise)
        for index in range(count)
    )


def write_crowded_scenes(
    out: str | Path,
    *,
    counts: tuple[int, int, int] = (150, 50, 100),
    size: tuple[int, ...] = (96, 96),
    seed: int = 0,
    likeness: float = 0.8,
) -> Path:
    """Write train, val and test scans (`counts`), each split from a seed of its own.

    2D: {train,val,test}/{images,masks}/scan_00000.png. 3D: the Decathlon's layout, training and
    validation scans first, in order (`scan_train_000`, `scan_val_000`, `scan_test_000`; all
    carry labels). Returns `out`.

    Raises:
        SegmendError: as in `make_crowded_scenes`; a folder that cannot be written to.
    """
    out, rows = Path(out), []
    for place, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        scenes = make_crowded_scenes(count, size=size, seed=3 * seed + place, likeness=likeness)
        for index, scene in enumerate(scenes):
            if len(size) == 2:
                name = f"scan_{index:05d}.png"
                write_image(out / split / "images" / name, scene.image.expand(3, -1, -1))
                write_mask(out / split / "masks" / name, scene.target)
                continue
            name = f"scan_{split}_{index:03d}.nii.gz"
            affine = torch.eye(4, dtype=torch.float64)
            write_volume(out / "imagesTr" / name, scene.image[0], affine)
            write_volume(out / "labelsTr" / name, scene.target, affine)
            rows.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    if rows:
        labels = {"0": "background", "1": "target"}
        content = {"name": "Crowded", "modality": {"0": "procedural"}, "labels": labels}
        write_json(out / "dataset.json", {**content, "training": rows, "test": []})
    return out


class _Scene:
    """A canvas of any number of axes, and the brushes."""

    def __init__(self, size: tuple[int, ...], rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.unit = min(size) / 96 if len(size) == 2 else min(size) / 48
        self.grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij")).astype(
            np.float32
        )
        self.image = 0.32 + self._mottle(4.0, 0.05)
        self.structures = np.zeros(size, np.int64)
        self.target = np.zeros(size, np.int64)

    def paint(self, empty: float, likeness: float, noise: float) -> CrowdedScene:
        rng = self.rng
        home = self._organ(rng.uniform(0.45, 0.6), 0.3)
        for _ in range(rng.integers(1, 3)):
            self._organ(rng.choice([0.18, 0.7]), 0.2)
        for _ in range(rng.integers(2, 4)):
            self._vessel()
        for _ in range(rng.integers(2, 6)):
            self._speck()
        for _ in range(rng.integers(1, 4)):
            self._cyst(home, likeness)
        if rng.random() >= empty:
            for _ in range(rng.integers(1, 3)):
                self._lesion(home)
        blurred = ndimage.gaussian_filter(self.image, 0.6)
        seen = np.clip(blurred + rng.normal(0, noise, self.size), 0, 1).astype(np.float32)
        tensors = (torch.from_numpy(x) for x in (seen[None], self.target, self.structures))
        return CrowdedScene(*tensors)

    def _organ(self, level: float, radius: float) -> NDArray[np.bool_]:
        side = min(self.size)
        centre = [self.rng.uniform(0.3, 0.7) * n for n in self.size]
        inside = self._blob(centre, radius * side * self.rng.uniform(0.8, 1.1), wobble=0.25)
        self._fill(inside, level + self._mottle(self.rng.uniform(1, 3), 0.04), "organ")
        return inside

    def _vessel(self) -> None:
        """A bright tube along a smooth random walk."""
        steps = 3 * max(self.size)
        heading = ndimage.gaussian_filter1d(
            self.rng.normal(0, 1, (len(self.size), steps)), 8, axis=1
        )
        heading /= np.linalg.norm(heading, axis=0, keepdims=True) + 1e-6
        start = np.array([self.rng.uniform(0, n) for n in self.size])[:, None]
        path = np.rint(start + np.cumsum(heading, 1)).astype(int)
        path = path[:, ((path >= 0) & (path < np.array(self.size)[:, None])).all(0)]
        away = np.ones(self.size, bool)
        away[tuple(path)] = False
        near = ndimage.distance_transform_edt(away) <= self.rng.uniform(0.8, 1.8) * self.unit
        self._fill(near, np.float32(self.rng.uniform(0.75, 0.9)), "vessel")

    def _speck(self) -> None:
        spot = self._blob(self._anywhere(), self.rng.uniform(1.0, 2.2) * self.unit, wobble=0.1)
        self._fill(spot, np.float32(self.rng.choice([0.05, 0.95])), "speck")

    def _cyst(self, home: NDArray[np.bool_], likeness: float) -> None:
        outside = self._anywhere_in(~ndimage.binary_dilation(home, iterations=3))
        blob = self._blob(outside, self.rng.uniform(3.5, 7.5) * self.unit, wobble=0.15)
        self._stain(blob & ~home, likeness, "cyst")

    def _lesion(self, home: NDArray[np.bool_]) -> None:
        core = ndimage.binary_erosion(home, iterations=max(1, round(3 * self.unit)))
        radius = self.rng.uniform(3.5, 7.5) * self.unit
        blob = self._blob(self._anywhere_in(core if core.any() else home), radius, wobble=0.15)
        self._stain(blob & home, 1.0, None)
        self.target[blob & home] = 1

    def _stain(self, where: NDArray[np.bool_], likeness: float, name: str | None) -> None:
        """The look of a target; with `likeness` below 1 smoother, darker, with less of a rim."""
        level = self.rng.uniform(0.34, 0.42) - 0.12 * (1 - likeness)
        self._fill(where, level + likeness * self._mottle(0.7, 0.06), name)
        rim = where & ~ndimage.binary_erosion(where)
        self.image[rim] += 0.12 * likeness

    def _fill(self, where: NDArray[np.bool_], value: Grid | np.float32, name: str | None) -> None:
        self.image[where] = np.broadcast_to(value, self.size)[where]
        if name is not None:
            self.structures[where] = STRUCTURES.index(name)

    def _blob(self, centre: object, radius: float, *, wobble: float) -> NDArray[np.bool_]:
        """An ellipsoid of random axes whose border wavers."""
        dims = len(self.size)
        offset = self.grid - np.asarray(centre, np.float32).reshape(-1, *[1] * dims)
        turn = np.linalg.qr(self.rng.normal(size=(dims, dims)))[0]
        axes = radius * self.rng.uniform(0.75, 1.25, dims)
        scaled = np.tensordot(turn, offset, 1) / axes.reshape(-1, *[1] * dims)
        rough = self._mottle(max(1.0, radius / 2), wobble)
        return np.asarray(np.sqrt((scaled**2).sum(0)) + rough < 1)

    def _mottle(self, width: float, deviation: float) -> Grid:
        """Smooth noise of mean 0."""
        field = ndimage.gaussian_filter(self.rng.normal(size=self.size).astype(np.float32), width)
        found: Grid = field * np.float32(deviation / (field.std() + 1e-8))
        return found

    def _anywhere(self) -> list[float]:
        return [self.rng.uniform(0, n) for n in self.size]

    def _anywhere_in(self, where: NDArray[np.bool_]) -> list[float]:
        places = np.argwhere(where)
        if len(places) == 0:
            return self._anywhere()
        return [float(x) for x in places[self.rng.integers(len(places))]]
