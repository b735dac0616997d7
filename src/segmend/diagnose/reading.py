"""Cases to diagnose, from tensors or from folders of files; files are read one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from segmend.data.folders import check_same_size, fit_channels
from segmend.data.images import read_image
from segmend.data.masks import Encoding, read_mask
from segmend.data.matching import Match, match_folders
from segmend.data.probability_maps import read_probabilities
from segmend.diagnose.assemble import (
    assemble,
    candidates_of,
    checked_threshold,
    with_channels,
)
from segmend.diagnose.case import Case
from segmend.errors import SegmendError

__all__ = ["FolderCases", "TensorCases"]

Maps = Tensor | Sequence[Tensor]
"""One tensor with the images along its first axis, or a tensor an image (sizes may differ)."""


class TensorCases:
    """Cases held in memory.

    Args:
        probs: float in [0, 1]: (N, C, H, W[, D]), with C = 1 or no channel axis in a binary
            problem; or integer labels (N, H, W[, D]), which is the same as giving `pred` alone.
        target: integer labels (N, H, W[, D]).
        pred: hard labels, where there is no map, or where they are not simply its threshold or
            its largest class.
        images: float (N, 3, H, W) in [0, 1].
        candidates: bool (N, C), the classes that an image may hold, background included.
        threshold: of a binary map, used as `probs > threshold`; None: 0.5.
        ignore_index: target label of pixels that count nowhere; probabilities there may be NaN.
        names: one an image; None: their indices.
        num_classes: background included; None: of the map, or the largest label and one, at
            least 2.
    Attributes:
        num_classes, threshold.
    Raises:
        SegmendError: neither map nor labels, lengths that differ (when built); shapes, labels or
            probabilities that do not fit, with the image's name (when read).
    """

    def __init__(
        self,
        probs: Maps | None = None,
        target: Maps | None = None,
        *,
        pred: Maps | None = None,
        images: Maps | None = None,
        candidates: Maps | None = None,
        threshold: float | None = None,
        ignore_index: int = 255,
        names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ) -> None:
        if probs is not None and len(probs) and not probs[0].is_floating_point():
            if pred is not None:
                raise SegmendError("probs: want floating point in [0, 1] beside pred, got integers")
            probs, pred = None, probs
        if target is None or (probs is None and pred is None):
            raise SegmendError("want a target, and probs (a map) or pred (hard labels)")
        self.probs, self.pred, self.target = probs, pred, target
        self.images, self.candidates, self.ignore_index = images, candidates, ignore_index
        self.names = [str(i) for i in range(len(target))] if names is None else list(names)
        given = {"probs": probs, "pred": pred, "images": images, "candidates": candidates}
        for name, values in (*given.items(), ("names", self.names)):
            if values is not None and len(values) != len(target):
                raise SegmendError(f"{name}: {len(values)} images, the target has {len(target)}")
        self.threshold = checked_threshold(threshold)
        self.num_classes = num_classes or self._count_classes()

    def __len__(self) -> int:
        return len(self.target)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Case:
        name, target = self.names[index], self.target[index].long()
        probs = None if self.probs is None else with_channels(self.probs[index], target)
        return assemble(
            name,
            target,
            probs=probs,
            pred=None if self.pred is None else self.pred[index].long(),
            image=None if self.images is None else self.images[index],
            candidates=None if self.candidates is None else self.candidates[index].bool(),
            threshold=self.threshold,
            ignore_index=self.ignore_index,
            num_classes=self.num_classes,
        )

    def _count_classes(self) -> int:
        if self.probs is not None and len(self.probs):
            return max(2, len(with_channels(self.probs[0], self.target[0])))
        highest = 1
        for values in (self.target, self.pred):
            for labels in () if values is None else values:
                counted = labels[labels != self.ignore_index]
                highest = max(highest, int(counted.max()) if counted.numel() else 0)
        return highest + 1


class FolderCases:
    """Cases read from folders, one image at a time; files are paired as in `match_folders`.

    Args:
        masks: folder of target masks.
        probs: folder of probability maps (one channel, or background and foreground, if binary).
        pred: folder of hard masks; beside `probs`, what was made of the maps.
        images: folder of images.
        num_classes: background included; 2 is a binary problem whose foreground is class 1.
        ignore_index, encoding, pred_encoding: see `read_mask`.
        threshold: of a binary map; None: 0.5.
        tags: names of the classes of each image, the background left out, by the image's name (the
            stem with its folder); or their file, see `read_tag_rows`. Needs `classes`.
        classes: names in label order, background first.
        partial: pass over files without a partner.
    Attributes:
        matches, num_classes, threshold.
    Raises:
        SegmendError: neither maps nor masks predicted; folders or partners missing, tags that do
            not fit (when built); a file that cannot be read, sizes that differ (when read).
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
        encoding: Encoding = "auto",
        pred_encoding: Encoding = "auto",
        partial: bool = False,
    ) -> None:
        if probs is None and pred is None:
            raise SegmendError("want a folder of probability maps (probs) or of masks (pred)")
        given = {"masks": masks, "probs": probs, "pred": pred, "images": images}
        folders = {role: folder for role, folder in given.items() if folder is not None}
        self.matches = match_folders(folders, partial=partial)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.threshold = checked_threshold(threshold)
        self.encoding, self.pred_encoding = encoding, pred_encoding
        names = [match.name for match in self.matches]
        self.candidates = None if tags is None else candidates_of(tags, names, classes, num_classes)

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Case:
        match = self.matches[index]
        paths = match.paths
        target = self._labels(paths["masks"], self.encoding)
        probs = self._partner(match, "probs", target, self._probabilities)
        return assemble(
            match.name,
            target,
            probs=probs,
            pred=self._partner(match, "pred", target, self._predicted),
            image=self._partner(match, "images", target, read_image),
            candidates=None if self.candidates is None else self.candidates[index],
            threshold=self.threshold,
            ignore_index=self.ignore_index,
            num_classes=self.num_classes,
        )

    def _partner(
        self, match: Match, role: str, target: Tensor, read: Callable[[Path], Tensor]
    ) -> Tensor | None:
        path = match.paths.get(role)
        if path is None:
            return None
        found = read(path)
        check_same_size(path, found, match.paths["masks"], target)
        return found

    def _probabilities(self, path: Path) -> Tensor:
        return fit_channels(path, read_probabilities(path), num_classes=self.num_classes)

    def _predicted(self, path: Path) -> Tensor:
        return self._labels(path, self.pred_encoding)

    def _labels(self, path: Path, encoding: Encoding) -> Tensor:
        return read_mask(
            path,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            encoding=encoding,
        )
