"""Cases of volumes: folders of NIfTI files, one volume read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segmend.data.matching import natural_key
from segmend.data.nifti import Volume, check_same_grid, is_volume, read_labels, read_volume, stem_of
from segmend.diagnose.assemble import assemble, candidates_of, checked_threshold
from segmend.diagnose.case import Case
from segmend.errors import SegmendError

__all__ = ["VolumeCases", "holds_volumes"]

_FIRST_MODALITY = "_0000"  # nnU-Net's ending of an image, which its label does not have


class VolumeCases:
    """Cases read from folders of NIfTI files; files of a case share their name.

    Args:
        masks: folder of label volumes.
        probs: folder of probability maps: (H, W, D) if binary, else one channel a class, last.
        pred: folder of label volumes; beside `probs`, what was made of the maps.
        images: folder of images, of which the first modality is shown, between its 1st and 99th
            percentile; `case_0000` belongs to `case`.
        num_classes, ignore_index, threshold, tags, classes, partial: as in `FolderCases`.
    Attributes:
        names, num_classes, threshold.
    Raises:
        SegmendError: neither maps nor labels predicted; folders or partners missing (when built);
            a file that cannot be read, grids that differ, probabilities outside [0, 1] (when read).
    """

    def __init__(
        self,
        masks: str | Path,
        *,
        probs: str | Path | None = None,
        pred: str | Path | None = None,
        images: str | Path | None = None,
        num_classes: int = 2,
        ignore_index: int = 255,
        threshold: float | None = None,
        tags: Mapping[str, Sequence[str]] | str | Path | None = None,
        classes: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        if probs is None and pred is None:
            raise SegmendError("want a folder of probability maps (probs) or of masks (pred)")
        given = {"masks": masks, "probs": probs, "pred": pred, "images": images}
        self.files = {
            role: _by_name(role, Path(folder)) for role, folder in given.items() if folder
        }
        self.names = _matched(self.files, partial=partial)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.threshold = checked_threshold(threshold)
        self.candidates = (
            None if tags is None else candidates_of(tags, self.names, classes, num_classes)
        )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Case:
        name = self.names[index]
        path = self.files["masks"][name]
        truth = read_labels(path, num_classes=self.num_classes, ignore_index=self.ignore_index)
        channels = 1 if self.num_classes == 2 else self.num_classes
        pred = None
        if "pred" in self.files:
            found = read_labels(self.files["pred"][name], num_classes=self.num_classes)
            pred = self._fitting("pred", name, found, truth)
        return assemble(
            name,
            truth.voxels,
            probs=self._voxels("probs", name, truth, channels),
            pred=pred,
            image=_shown(self._voxels("images", name, truth, 1)),
            candidates=None if self.candidates is None else self.candidates[index],
            threshold=self.threshold,
            ignore_index=self.ignore_index,
            num_classes=self.num_classes,
        )

    def _voxels(self, role: str, name: str, truth: Volume, channels: int) -> Tensor | None:
        if role not in self.files:
            return None
        found = read_volume(self.files[role][name], channels=channels)
        return self._fitting(role, name, found, truth)

    def _fitting(self, role: str, name: str, found: Volume, truth: Volume) -> Tensor:
        check_same_grid(self.files[role][name], found, self.files["masks"][name], truth)
        return found.voxels


def holds_volumes(folder: str | Path) -> bool:
    """Whether a folder has NIfTI files right in it."""
    folder = Path(folder)
    return folder.is_dir() and any(is_volume(path) for path in folder.iterdir())


def _shown(voxels: Tensor | None) -> Tensor | None:
    """(3, H, W, D) in [0, 1] from grey (1, H, W, D)."""
    if voxels is None:
        return None
    some = voxels.flatten()[:: max(1, voxels.numel() // 100_000)]
    low, high = some.quantile(torch.tensor([0.01, 0.99])).tolist()
    grey: Tensor = ((voxels - low) / max(high - low, 1e-8)).clamp(0, 1)
    return grey.expand(3, *voxels.shape[1:])


def _by_name(role: str, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise SegmendError(f"{role}: {folder}: no such folder; want a folder of NIfTI files")
    found = {stem_of(path): path for path in sorted(folder.iterdir()) if is_volume(path)}
    if not found:
        raise SegmendError(f"{role}: {folder}: holds no NIfTI file (.nii, .nii.gz)")
    if role == "images":
        found = {name.removesuffix(_FIRST_MODALITY): path for name, path in found.items()}
    return found


def _matched(files: Mapping[str, Mapping[str, Path]], *, partial: bool) -> list[str]:
    """Names that all roles have, in natural order.

    Raises:
        SegmendError: a name that a role lacks (unless `partial`; images may be more), or no name.
    """
    shared = set.intersection(*(set(found) for found in files.values()))
    for role, found in files.items():
        lonely = sorted(set(found) - shared, key=natural_key)
        if lonely and not partial and role != "images":
            raise SegmendError(
                f"{role}: {len(lonely)} file(s) have no partner of the same name in every folder: "
                f"{', '.join(lonely[:5])}; add or rename them, or keep the complete cases (partial)"
            )
    if not shared:
        raise SegmendError("no NIfTI file has a partner of the same name in every folder")
    return sorted(shared, key=natural_key)
