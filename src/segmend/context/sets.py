"""From folders and described data sets to items for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segmend.context.options import ContextOptions
from segmend.data.decathlon import VolumeLayout, read_decathlon
from segmend.data.folders import SegmentationFolder
from segmend.data.nifti import is_volume
from segmend.data.nnunet import ignored_label, is_nnunet, read_nnunet, read_splits
from segmend.data.volumes import Case, VolumeSet, volume_folder
from segmend.engine.crops import ItemSet
from segmend.engine.jobs import split_off
from segmend.errors import SegmendError

SPLITS = "splits_final.json"


@dataclass(frozen=True)
class ContextSets:
    """Items to train, validate and test on; the latter two where there are any."""

    train: ItemSet
    val: ItemSet | None
    test: ItemSet | None = None


def volume_sets(options: ContextOptions, root: str | Path) -> ContextSets:
    """Cases of a data set with dataset.json, of the Decathlon's kind or nnU-Net's.

    Split by `options.splits` (counts, by sorted name), else by splits_final.json beside
    dataset.json, else by a seeded share.

    Raises:
        SegmendError: as in the readers; splits for more cases than there are.
    """
    layout, ignored = read_layout(root)
    whole = VolumeSet(
        layout.training,
        channels=len(layout.modalities),
        intensities=options.intensities,
        num_classes=len(layout.labels),
        target=options.target,
        spacing=options.spacing,
        ignore_index=options.ignore_index,
        ignored=ignored,
    )
    if options.target is None and len(layout.labels) > options.num_classes:
        raise SegmendError(
            f"{root}: has labels {list(layout.labels)}; say which are the target "
            f"(--set target=[1]), or num_classes={len(layout.labels)}"
        )
    if options.splits is not None:
        counts = options.splits
        if sum(counts) > len(whole):
            raise SegmendError(f"splits: {counts} are more than the {len(whole)} cases of {root}")
        ends = [counts[0], sum(counts[:2]), sum(counts)]
        return _parts(whole, range(ends[0]), range(*ends[:2]), range(*ends[1:]))
    splits = layout.root / SPLITS
    if splits.is_file():
        names = whole.names
        sides = read_splits(splits, options.fold, layout.training)
        return _parts(whole, *([names.index(case.name) for case in side] for side in sides))
    return _share(whole, options)


def folder_sets(
    options: ContextOptions,
    images: Path,
    masks: Path,
    *,
    val_images: Path | None = None,
    val_masks: Path | None = None,
) -> ContextSets:
    """Folders of pictures and masks, or of NIfTI images and labels."""
    train = _folder(options, images, masks)
    if val_images is not None and val_masks is not None:
        return ContextSets(train, _folder(options, val_images, val_masks))
    return _share(train, options)


def cases_to_predict(images: str | Path, *, channels: int) -> list[Case]:
    """Cases of a folder of NIfTI files, or the unlabelled ones of a described data set.

    With several channels a folder's files are CASE_0000, CASE_0001, …, as nnU-Net's.

    Raises:
        SegmendError: no such folder, no case.
    """
    path = Path(images)
    if (path / "dataset.json").is_file() or path.name == "dataset.json":
        layout, _ = read_layout(path)
        if not layout.test:
            raise SegmendError(f"{path}: lists no case without labels; give the images' folder")
        return list(layout.test)
    cases = volume_folder(path)
    if channels == 1 or not cases[0].name.endswith("_0000"):
        return cases
    groups: dict[str, list[Path]] = {}
    for case in cases:
        groups.setdefault(case.name[:-5], []).append(case.images[0])
    return [Case(name, tuple(sorted(files))) for name, files in groups.items()]


def read_layout(root: str | Path) -> tuple[VolumeLayout, int | None]:
    """A data set's description, and its label to be ignored, where it names one."""
    if is_nnunet(root):
        return read_nnunet(root), ignored_label(root)
    return read_decathlon(root), None


def _folder(options: ContextOptions, images: Path, masks: Path) -> ItemSet:
    if Path(images).is_dir() and any(is_volume(p) for p in Path(images).iterdir()):
        return VolumeSet(
            volume_folder(images, masks),
            intensities=options.intensities,
            target=options.target,
            num_classes=None if options.target else options.num_classes,
            spacing=options.spacing,
            ignore_index=options.ignore_index,
        )
    return SegmentationFolder(
        images, masks, num_classes=options.num_classes, ignore_index=options.ignore_index
    )


def _share(items: ItemSet, options: ContextOptions) -> ContextSets:
    train, val = split_off(items, fraction=options.val_fraction, seed=options.seed)
    return ContextSets(train, val)


def _parts(whole: VolumeSet, *sides: Sequence[int]) -> ContextSets:
    train, *rest = [whole.part(list(side)) if len(side) else None for side in sides]
    if train is None:
        raise SegmendError("splits: leave no case to train on")
    return ContextSets(train, *rest)
