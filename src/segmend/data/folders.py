"""Data sets over folders of files: images with masks, probability maps with masks; all lazy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.images import read_image
from segmend.data.masks import Encoding, read_mask
from segmend.data.matching import Match, match_folders
from segmend.data.probability_maps import read_probabilities
from segmend.errors import SegmendError

__all__ = ["Match", "ProbabilityFolder", "SegmentationFolder", "match_folders"]


class SegmentationFolder(Dataset[dict[str, Any]]):
    """A folder of images and, where given, one of masks; a file is read when it is asked for.

    Items: `name` (str), `image` (float32 (3, H, W) in [0, 1]) and, with masks, `target`
    (int64 (H, W) with labels below `num_classes` and `ignore_index`). Sizes may differ between
    items. Files are paired as in `match_folders`; `matches` lists them.

    Args:
        images, masks: folders; masks may be left out, as for prediction.
        num_classes, ignore_index, encoding: as in `read_mask`.
        partial: pass over images without a mask and masks without an image.
    Raises:
        SegmendError: as in `match_folders` when built; as in `read_image` and `read_mask`, and
            where an image and its mask differ in size, when an item is read.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path | None = None,
        *,
        num_classes: int = 2,
        ignore_index: int = 255,
        encoding: Encoding = "auto",
        partial: bool = False,
    ) -> None:
        folders = {"images": images} if masks is None else {"images": images, "masks": masks}
        self.matches = match_folders(folders, partial=partial)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.encoding: Encoding = encoding

    def __len__(self) -> int:
        return len(self.matches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        match = self.matches[index]
        item: dict[str, Any] = {"name": match.name, "image": read_image(match.paths["images"])}
        if "masks" in match.paths:
            item["target"] = _target(self, match)
            check_same_size(
                match.paths["images"], item["image"], match.paths["masks"], item["target"]
            )
        return item


class ProbabilityFolder(Dataset[dict[str, Any]]):
    """A folder of probability maps with, where given, masks and images; read when asked for.

    Items: `name`, `probs` (float32 (C, H, W) in [0, 1]), with masks `target` (int64 (H, W)), with
    images `image` (float32 (3, H, W)). For two classes C is 1: of a two-channel softmax, such as
    nnU-Net writes, the foreground is kept.

    Args:
        probs, masks, images: folders, paired as in `match_folders`.
        num_classes: 2 for binary maps, else the number of channels, background included.
        ignore_index, encoding: as in `read_mask`.
        partial: pass over files without a partner.
    Raises:
        SegmendError: as in `match_folders` when built; as in the readers, and where sizes or the
            number of channels do not fit, when an item is read.
    """

    def __init__(
        self,
        probs: str | Path,
        masks: str | Path | None = None,
        images: str | Path | None = None,
        *,
        num_classes: int = 2,
        ignore_index: int = 255,
        encoding: Encoding = "auto",
        partial: bool = False,
    ) -> None:
        given = {"probs": probs, "masks": masks, "images": images}
        folders = {role: folder for role, folder in given.items() if folder is not None}
        self.matches = match_folders(folders, partial=partial)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.encoding: Encoding = encoding

    def __len__(self) -> int:
        return len(self.matches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        match = self.matches[index]
        path = match.paths["probs"]
        probs = fit_channels(path, read_probabilities(path), num_classes=self.num_classes)
        item: dict[str, Any] = {"name": match.name, "probs": probs}
        if "masks" in match.paths:
            item["target"] = _target(self, match)
            check_same_size(path, probs, match.paths["masks"], item["target"])
        if "images" in match.paths:
            item["image"] = read_image(match.paths["images"])
            check_same_size(path, probs, match.paths["images"], item["image"])
        return item


def fit_channels(path: Path, probs: Tensor, *, num_classes: int) -> Tensor:
    """The channels `num_classes` asks for: (1, H, W) for two classes, else (num_classes, H, W).

    Raises:
        SegmendError: another number of channels, or two channels that do not sum to 1.
    """
    channels = len(probs)
    if num_classes == 2 and channels == 2:
        gap = float((probs.sum(0) - 1.0).abs().max())
        if gap > 0.02:  # float16 and 8 bit files are within 0.004
            raise SegmendError(
                f"{path}: two channels that miss a sum of 1 by up to {gap:.3g}; want the softmax "
                "of background and foreground, or the foreground alone as one channel"
            )
        return probs[1:]
    wanted = 1 if num_classes == 2 else num_classes
    if channels != wanted:
        also = " (or 2)" if num_classes == 2 else ""
        raise SegmendError(
            f"{path}: {channels} channels; want {wanted}{also} for num_classes={num_classes}"
        )
    return probs


def check_same_size(path: Path, tensor: Tensor, other: Path, partner: Tensor) -> None:
    """Raise a SegmendError that names both files and sizes where two partners differ in size."""
    size, found = tuple(tensor.shape[-2:]), tuple(partner.shape[-2:])
    if size != found:
        raise SegmendError(
            f"{path} is {size[0]}x{size[1]} (height x width), but its partner {other} is "
            f"{found[0]}x{found[1]}; want equal sizes; resize one, or pair other files"
        )


def _target(data: SegmentationFolder | ProbabilityFolder, match: Match) -> Tensor:
    return read_mask(
        match.paths["masks"],
        num_classes=data.num_classes,
        ignore_index=data.ignore_index,
        encoding=data.encoding,
    )
