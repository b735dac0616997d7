"""Berkeley's SBD annotations as VOC masks: the augmented split that weak supervision trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmend.data.files import write_text
from segmend.data.images import IMAGE_SUFFIXES
from segmend.data.masks import read_mask, write_mask
from segmend.data.matching import natural_key
from segmend.data.voc import VOC_CLASSES, read_split
from segmend.errors import SegmendError, reason_of

LABELS = "SegmentationClassAug"
SPLIT = "train_aug"
CLASSES = len(VOC_CLASSES)


def read_sbd(path: str | Path) -> Tensor:
    """The labels of one `cls/ID.mat` of SBD: int64 (H, W), 0 background, 1..20 VOC's classes.

    SBD has no void: object borders belong to the object.

    Raises:
        SegmendError: not readable as a MATLAB file (format 7.3 is not), no
            `GTcls.Segmentation`, or labels outside 0..20.
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(
            str(path), variable_names=["GTcls"], squeeze_me=True, struct_as_record=False
        )
    except Exception as error:  # whatever a stranger's file makes of the reader
        reason = reason_of(error, 200) or type(error).__name__
        raise SegmendError(f"{path}: cannot be read as a MATLAB file ({reason})") from error
    labels = np.asarray(getattr(content.get("GTcls"), "Segmentation", None))
    if labels.ndim != 2 or labels.dtype.kind not in "uif" or labels.size == 0:
        raise SegmendError(
            f"{path}: want SBD's GTcls.Segmentation, a table of labels; got "
            f"{labels.dtype} {labels.shape}; the files are in `cls`, not `inst`"
        )
    found = sorted(set(np.unique(labels).tolist()) - set(range(CLASSES)))
    if found:
        raise SegmendError(f"{path}: labels {found[:5]}; want whole numbers 0..{CLASSES - 1}")
    return torch.from_numpy(labels.astype(np.int64))


def write_sbd(
    voc: str | Path,
    sbd: str | Path,
    *,
    on_image: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write VOC's augmented training split beside VOC 2012, and give its names.

    `voc`/SegmentationClassAug gets VOC's own masks of `train` and `val` (with void) and SBD's of
    all other images; the list `voc`/ImageSets/Segmentation/train_aug.txt all of these but `val`'s:
    10,582 names for the full sets. Masks that are there are kept, so that a run can be taken up
    again; the list is written last.

    Args:
        voc: the folder VOC2012, with JPEGImages and SegmentationClass.
        sbd: SBD's `benchmark_RELEASE`, its folder `dataset`, or that one's `cls`.
        on_image: called after each image with (images done, of how many).
    Raises:
        SegmendError: folders or lists missing; as in `read_sbd`; a mask without its image, or of
            another size.
    """
    voc, source = Path(voc), _folder(Path(sbd))
    own = {split: read_split(voc, split)[0] for split in ("train", "val")}
    held_out, known = set(own["val"]), {*own["train"], *own["val"]}
    more = sorted({path.stem for path in source.glob("*.mat")} - known, key=natural_key)
    if not more:
        raise SegmendError(f"{source}: no .mat of an image that VOC itself has no mask of")
    jobs = [
        (name, voc / "SegmentationClass" / f"{name}.png") for name in [*own["train"], *own["val"]]
    ]
    jobs += [(name, source / f"{name}.mat") for name in more]
    images = {
        p.stem: p for p in (voc / "JPEGImages").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
    }
    for index, (name, path) in enumerate(jobs):
        target = voc / LABELS / f"{name}.png"
        if not target.is_file():
            _convert(path, images.get(name), target)
        if on_image is not None:
            on_image(index + 1, len(jobs))
    names = [name for name, _ in jobs if name not in held_out]
    lines = "".join(f"/JPEGImages/{images[n].name} /{LABELS}/{n}.png\n" for n in names)
    write_text(voc / "ImageSets" / "Segmentation" / f"{SPLIT}.txt", lines)
    return names


def _convert(path: Path, image: Path | None, target: Path) -> None:
    if image is None:
        raise SegmendError(f"{path}: VOC's JPEGImages has no image of this name")
    if path.suffix == ".mat":
        labels = read_sbd(path)
    else:
        labels = read_mask(path, num_classes=CLASSES, encoding="index")
    size = _size(image)
    if tuple(labels.shape) != size:
        raise SegmendError(f"{path}: labels of {tuple(labels.shape)}, but {image} is {size}")
    write_mask(target, labels, encoding="palette")


def _size(image: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(image) as opened:
            return opened.height, opened.width
    except OSError as error:
        raise SegmendError(f"{image}: cannot be read as an image ({error})") from error


def _folder(root: Path) -> Path:
    places: Sequence[Path] = (root, root / "cls", root / "dataset" / "cls")
    for place in places:
        if place.is_dir() and next(place.glob("*.mat"), None) is not None:
            return place
    raise SegmendError(f"{root}: no `cls` folder of .mat files; want SBD's benchmark_RELEASE")
