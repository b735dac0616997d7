"""Data sets over folders, end to end on files that the writers made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from segmend.data.files import write_text
from segmend.data.folders import ProbabilityFolder, SegmentationFolder, fit_channels
from segmend.data.images import read_image, write_image
from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.errors import SegmendError

SIZES = {"eins": (4, 5), "zwei/日": (1, 7), "drei": (1, 1)}


def make(tmp_path: Path) -> tuple[Path, Path, Path]:
    images, masks, probs = (tmp_path / name for name in ("images", "masks", "probs"))
    for name, size in SIZES.items():
        write_image(images / f"{name}.png", torch.rand(3, *size))
        write_mask(masks / f"{name}_mask.tif", torch.rand(size) > 0.5)
        write_probabilities(probs / f"{name}.png", torch.rand(1, *size))
    return images, masks, probs


def test_items_of_different_sizes(tmp_path: Path) -> None:
    images, masks, _ = make(tmp_path)
    data = SegmentationFolder(images, masks)
    assert len(data) == 3
    for item in data:
        assert set(item) == {"name", "image", "target"}
        size = SIZES[item["name"]]
        assert item["image"].shape == (3, *size)
        assert item["target"].shape == size
        assert torch.equal(item["image"], read_image(images / f"{item['name']}.png"))


def test_images_alone_have_no_target(tmp_path: Path) -> None:
    images, _, _ = make(tmp_path)
    assert set(SegmentationFolder(str(images))[0]) == {"name", "image"}


def test_works_with_worker_processes(tmp_path: Path) -> None:
    images, masks, _ = make(tmp_path)
    data = SegmentationFolder(images, masks)
    items = list(DataLoader(data, batch_size=None, num_workers=1))
    assert [item["name"] for item in items] == [match.name for match in data.matches]


def test_files_are_read_when_asked_for(tmp_path: Path) -> None:
    images, masks, probs = make(tmp_path)
    (images / "eins.png").write_bytes(b"")
    data = SegmentationFolder(images, masks)
    maps = ProbabilityFolder(probs, masks)  # does not need the images
    assert len(list(maps)) == 3
    index = [match.name for match in data.matches].index("eins")
    with pytest.raises(SegmendError, match=r"eins\.png: the file is empty"):
        data[index]


def test_mismatched_sizes_name_both_files_and_sizes(tmp_path: Path) -> None:
    images, masks, probs = make(tmp_path)
    write_image(images / "eins.png", torch.rand(3, 5, 4))
    write_probabilities(probs / "drei.png", torch.rand(1, 2, 3))
    found = r"eins\.png is 5x4 \(height x width\), but its partner .*eins_mask\.tif is 4x5"
    with pytest.raises(SegmendError, match=found):
        list(SegmentationFolder(images, masks))
    with pytest.raises(SegmendError, match=r"drei\.png is 2x3 .* partner .*drei_mask\.tif is 1x1"):
        list(ProbabilityFolder(probs, masks))
    with pytest.raises(SegmendError, match=r"drei\.png is 2x3 .* partner .*images/drei\.png is 1x"):
        list(ProbabilityFolder(probs, images=images))


def test_partial_keeps_the_complete_items(tmp_path: Path) -> None:
    images, masks, _ = make(tmp_path)
    (masks / "drei_mask.tif").unlink()
    with pytest.raises(SegmendError, match=r"images .*: 1: drei\.png"):
        SegmentationFolder(images, masks)
    assert len(SegmentationFolder(images, masks, partial=True)) == 2


def test_probabilities_with_masks_and_images(tmp_path: Path) -> None:
    images, masks, probs = make(tmp_path)
    for item in ProbabilityFolder(probs, masks, images):
        assert set(item) == {"name", "probs", "target", "image"}
        assert item["probs"].shape == (1, *SIZES[item["name"]])
    assert set(ProbabilityFolder(probs)[0]) == {"name", "probs"}


def test_encoding_ignore_index_and_classes_reach_the_reader(tmp_path: Path) -> None:
    stored = torch.tensor([[0, 255]])
    write_mask(tmp_path / "m" / "a.png", stored, encoding="index")
    write_image(tmp_path / "i" / "a.png", torch.rand(3, 1, 2))
    write_probabilities(tmp_path / "p" / "a.npz", torch.full((4, 1, 2), 0.25))
    images, masks, probs = (tmp_path / name for name in "imp")
    assert SegmentationFolder(images, masks)[0]["target"].tolist() == [[0, 1]]
    data = SegmentationFolder(images, masks, encoding="index")
    assert data[0]["target"].tolist() == [[0, 255]]
    maps = ProbabilityFolder(probs, masks, num_classes=4)
    assert maps[0]["target"].tolist() == [[0, 255]]
    assert maps[0]["probs"].shape == (4, 1, 2)
    with pytest.raises(SegmendError, match=r"a\.png: labels \[255\] found; want 0 \.\. 3 or 9"):
        ProbabilityFolder(probs, masks, num_classes=4, ignore_index=9)[0]


def test_foreground_is_taken_from_a_softmax_of_two(tmp_path: Path) -> None:
    foreground = torch.rand(1, 3, 4)
    soft = torch.cat([1 - foreground, foreground]).numpy()[:, None]
    (tmp_path / "p").mkdir()
    np.savez(tmp_path / "p" / "a.npz", probabilities=soft)
    write_text(tmp_path / "p" / "a.png", "nnU-Net's segmentation would be here")
    assert torch.equal(ProbabilityFolder(tmp_path / "p")[0]["probs"], foreground)


@pytest.mark.parametrize(
    ("probs", "num_classes", "text"),
    [
        (torch.full((2, 1, 1), 0.3), 2, r"two channels that miss a sum of 1 by up to 0\.4; want"),
        (torch.rand(3, 1, 1), 2, r"3 channels; want 1 \(or 2\) for num_classes=2"),
        (torch.rand(1, 1, 1), 3, "1 channels; want 3 for num_classes=3"),
    ],
)
def test_channels_that_do_not_fit_are_named(probs, num_classes: int, text: str) -> None:
    with pytest.raises(SegmendError, match=rf"a\.npz: {text}"):
        fit_channels(Path("a.npz"), probs, num_classes=num_classes)
