"""Sets of volumes, read when asked for: images and labels, intensities brought to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from segmend.data.matching import natural_key
from segmend.data.nifti import (
    Volume,
    check_same_grid,
    is_volume,
    read_labels,
    read_volume,
    stem_of,
)
from segmend.errors import SegmendError


class Intensities(BaseModel):
    """How grey values are brought to one scale.

    "zscore": each channel of each volume to mean 0, deviation 1 (MRI). "ct": clipped to `clip`
    (HU), then (x - `mean`) / `deviation`. "none": as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["zscore", "ct", "none"] = "zscore"
    clip: tuple[float, float] | None = Field(None, description="HU, for ct.")
    mean: float = 0.0
    deviation: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Intensities:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip: want low < high, got {self.clip}")
        if self.method == "ct" and self.clip is None:
            raise ValueError("clip: ct wants the window to clip to, such as [-100, 240] HU")
        return self

    def apply(self, voxels: Tensor) -> Tensor:
        """Voxels (C, ...) on the common scale; a channel of one value becomes 0 under zscore."""
        if self.method == "none":
            return voxels
        if self.method == "ct":
            assert self.clip is not None
            return (voxels.clamp(*self.clip) - self.mean) / self.deviation
        flat = voxels.flatten(1).double()
        mean, deviation = flat.mean(1), flat.std(1, correction=0)
        scaled = (flat - mean[:, None]) / deviation[:, None].clamp(min=1e-8)
        return scaled.float().view_as(voxels)


@dataclass(frozen=True)
class Case:
    """Files of one case: `images` one a modality (or one 4D file of all), `label` where known."""

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


class VolumeSet(Dataset[dict[str, Any]]):
    """Volumes with their labels; a file is read when it is asked for.

    Items: `name`, `image` (float32 (C, H, W, D), intensities on one scale), with labels `target`
    (int64 (H, W, D)), `spacing` (float32 (3,), mm), `affine` (float64 (4, 4)). With `spacing`
    given, image and target are resampled to it (linear, nearest), and `original` (int64 (3,)) is
    the shape on file; `affine` stays that of the file.

    Args:
        cases: in order.
        channels: modalities of every case.
        intensities: None is `Intensities()`, a z-score.
        num_classes: labels in the files must be below it; None: any.
        target: labels that are the foreground, which becomes 1, the rest 0; None keeps all.
        spacing: mm along each axis, of all items.
        ignored: label in the files that becomes `ignore_index`, such as nnU-Net's "ignore".
    Raises:
        SegmendError: no case; and, when an item is read, as in `read_volume` and `read_labels`,
            and where files of one case differ in shape or affine (`check_same_grid`).
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        channels: int = 1,
        intensities: Intensities | None = None,
        num_classes: int | None = None,
        target: Sequence[int] | None = None,
        spacing: tuple[float, float, float] | None = None,
        ignore_index: int = 255,
        ignored: int | None = None,
    ) -> None:
        if not cases:
            raise SegmendError("cases: want at least one, got none")
        if spacing is not None and not min(spacing) > 0:
            raise SegmendError(f"spacing: want three numbers above 0, got {spacing}")
        self.cases = list(cases)
        self.channels = channels
        self.intensities = intensities or Intensities()
        self.num_classes = num_classes
        self.foreground = None if target is None else tuple(target)
        self.spacing = spacing
        self.ignore_index = ignore_index
        self.ignored = ignored

    @property
    def names(self) -> list[str]:
        return [case.name for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def part(self, indices: Sequence[int]) -> VolumeSet:
        """The same set with some of its cases, in the given order."""
        return VolumeSet(
            [self.cases[i] for i in indices],
            channels=self.channels,
            intensities=self.intensities,
            num_classes=self.num_classes,
            target=self.foreground,
            spacing=self.spacing,
            ignore_index=self.ignore_index,
            ignored=self.ignored,
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        image = self._image(case)
        item: dict[str, Any] = {
            "name": case.name,
            "image": self.intensities.apply(image.voxels),
            "spacing": image.spacing,
            "affine": image.affine,
        }
        if case.label is not None:
            unused = self.ignore_index if self.ignored is None else self.ignored
            labels = read_labels(case.label, num_classes=self.num_classes, ignore_index=unused)
            check_same_grid(case.images[0], image, case.label, labels)
            item["target"] = self._chosen(labels.voxels)
        return item if self.spacing is None else resampled_item(item, self.spacing)

    def _image(self, case: Case) -> Volume:
        if len(case.images) == 1:
            return read_volume(case.images[0], channels=self.channels)
        if len(case.images) != self.channels:
            raise SegmendError(
                f"{case.name}: want {self.channels} modalities, found {len(case.images)} files"
            )
        volumes = [read_volume(path) for path in case.images]
        for path, volume in zip(case.images[1:], volumes[1:], strict=True):
            check_same_grid(case.images[0], volumes[0], path, volume)
        return Volume(torch.cat([v.voxels for v in volumes]), volumes[0].affine, volumes[0].spacing)

    def _chosen(self, labels: Tensor) -> Tensor:
        unused = labels == (self.ignore_index if self.ignored is None else self.ignored)
        if self.foreground is not None:
            labels = torch.isin(labels, torch.tensor(self.foreground)).long()
        return labels.masked_fill(unused, self.ignore_index)


def volume_folder(images: str | Path, labels: str | Path | None = None) -> list[Case]:
    """Cases of plain folders of NIfTI files; a label file is called as its image is.

    Raises:
        SegmendError: a folder is missing or has no NIfTI file; an image without a label, or the
            reverse (named).
    """
    found = volumes_by_name(Path(images), "images")
    truth = {} if labels is None else volumes_by_name(Path(labels), "labels")
    lonely = sorted(found.keys() ^ truth.keys(), key=natural_key) if labels is not None else []
    if lonely:
        raise SegmendError(
            f"{images} and {labels}: {len(lonely)} file(s) have no partner of the same name: "
            f"{', '.join(lonely[:5])}; add or rename them"
        )
    return [Case(name, (found[name],), truth.get(name)) for name in sorted(found, key=natural_key)]


def resampled_item(item: dict[str, Any], spacing: tuple[float, float, float]) -> dict[str, Any]:
    """The item on a grid of another spacing (mm); `original` keeps its shape on file."""
    shape = tuple(item["image"].shape[1:])
    size = tuple(
        max(1, round(n * float(old) / new))
        for n, old, new in zip(shape, item["spacing"], spacing, strict=True)
    )
    done = {**item, "original": torch.tensor(shape), "image": resampled(item["image"], size)}
    done["spacing"] = item["spacing"] * torch.tensor(shape) / torch.tensor(size)
    if "target" in item:
        done["target"] = resampled_labels(item["target"], size)
    return done


def resampled(voxels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Floating voxels (C, H, W, D) at another size, linear, with the outer borders in place."""
    if tuple(voxels.shape[1:]) == tuple(size):
        return voxels
    return F.interpolate(voxels[None], size=size, mode="trilinear", align_corners=False)[0]


def resampled_labels(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Labels (H, W, D), int64, at another size: each voxel that of the nearest."""
    if tuple(labels.shape) == tuple(size):
        return labels
    near = F.interpolate(labels[None, None].double(), size=size, mode="nearest-exact")
    return near[0, 0].long()


def volumes_by_name(folder: Path, role: str) -> dict[str, Path]:
    """The NIfTI files of a folder by name; SegmendError, which says the role, where none is."""
    if not folder.is_dir():
        raise SegmendError(f"{role}: {folder}: not found; want a folder of NIfTI files")
    found = {stem_of(path): path for path in sorted(folder.iterdir()) if is_volume(path)}
    if not found:
        raise SegmendError(f"{role}: {folder}: holds no NIfTI file (.nii, .nii.gz)")
    return found
