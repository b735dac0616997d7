"""The VOC layout on tiny sets written by Pillow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmend.data.voc import VOC_CLASSES, VOCFolder, tags_of
from segmend.errors import SegmendError

MASKS = {"a": [[0, 1, 255]], "b": [[2, 2, 1]], "c": [[0, 0, 0]], "d": [[255, 255, 255]]}


def make(root: Path, *, classes: object = None, labels: str = "SegmentationClass") -> Path:
    for folder in ("JPEGImages", labels, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, rows in MASKS.items():
        Image.fromarray(np.full((1, 3, 3), 128, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        mask = Image.fromarray(np.array(rows, np.uint8))
        mask.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
        mask.save(root / labels / f"{name}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("b\na\n\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("c\r\nd\r\n")
    if classes is not None:
        (root / "classes.json").write_text(json.dumps(classes))
    return root


def test_items_follow_the_list(tmp_path: Path) -> None:
    data = VOCFolder(make(tmp_path, classes=["background", "cow", "sheep"]), "train")
    assert data.names == ["b", "a"]
    assert data.classes == ("background", "cow", "sheep")
    assert (data.num_classes, data.background, len(data)) == (3, 0, 2)
    item = data[1]
    assert item["name"] == "a"
    assert item["image"].shape == (3, 1, 3)
    assert item["target"].tolist() == MASKS["a"]
    assert data.tags(0).tolist() == [1, 1]
    assert data.tags(1).tolist() == [1, 0]


def test_all_background_and_all_ignored_have_no_tags(tmp_path: Path) -> None:
    data = VOCFolder(make(tmp_path), "val")
    assert data.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == 21
    assert data.tags(0).tolist() == [0] * 20
    assert data.tags(1).tolist() == [0] * 20


def test_without_background_every_class_can_be_a_tag(tmp_path: Path) -> None:
    content = {"classes": ["background"], "all_classes": ["grass", "tree", "sky"]}
    root = make(tmp_path, classes=content, labels="SegmentationAll")
    data = VOCFolder(root, "train", labels="SegmentationAll")
    assert data.background is None
    assert data.tags(0).tolist() == [0, 1, 1]
    assert data.tags(1).tolist() == [1, 1, 0]


def test_tags_by_brute_force() -> None:
    target = torch.tensor([[0, 3], [7, 3]])
    assert tags_of(target, num_classes=5, ignore_index=7).tolist() == [0, 0, 1, 0]
    assert tags_of(target, num_classes=5, background=None, ignore_index=7).tolist() == [
        1,
        0,
        0,
        1,
        0,
    ]
    assert tags_of(target, num_classes=5, background=3, ignore_index=7).tolist() == [1, 0, 0, 0]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = make(tmp_path)
    lists = root / "ImageSets/Segmentation"
    for split, lines, text in [
        ("test", None, r"test\.txt: no such list; splits found in .*: train, val"),
        ("nothing", "\n", r"nothing\.txt: the list is empty; want one image ID a line"),
        ("twice", "a\nb\na\n", r"twice\.txt, line 3: 'a' is listed twice, first in line 1"),
        ("more", "a\nx\ny\n", r"JPEGImages: 2 of 3 files missing: x, y"),
    ]:
        if lines is not None:
            (lists / f"{split}.txt").write_text(lines)
        with pytest.raises(SegmendError, match=text):
            VOCFolder(root, split)
    (root / "SegmentationClass/a.png").unlink()
    with pytest.raises(SegmendError, match="SegmentationClass: 1 of 2 files missing: a"):
        VOCFolder(root, "train")
    with pytest.raises(SegmendError, match="Other: no such folder; want the PASCAL VOC layout"):
        VOCFolder(root, "train", labels="Other")


@pytest.mark.parametrize("content", ["{", "[]", '{"names": ["a"]}', "[1, 2]"])
def test_class_names_are_checked(tmp_path: Path, content: str) -> None:
    (make(tmp_path) / "classes.json").write_text(content)
    with pytest.raises(SegmendError, match=r"classes\.json: (not JSON|want a list of class names)"):
        VOCFolder(tmp_path, "train")


def test_255_is_ignored_in_a_set_of_two_classes_too(tmp_path: Path) -> None:
    root = make(tmp_path, classes=["background", "cow"])
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).save(root / "SegmentationClass/a.png")
    assert VOCFolder(root, "train")[1]["target"].tolist() == [[0, 255, 255]]


def test_labels_and_sizes_are_checked_when_read(tmp_path: Path) -> None:
    data = VOCFolder(make(tmp_path, classes=["background", "cow"]), "train")
    with pytest.raises(SegmendError, match=r"b\.png: labels \[2\] found; want 0 \.\. 1"):
        data[0]
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "JPEGImages/a.jpg")
    with pytest.raises(SegmendError, match=r"a\.jpg is 2x3 .* partner .*a\.png is 1x3"):
        data[1]


def augmented(root: Path, lines: str) -> Path:
    make(root, labels="SegmentationClassAug")
    (root / "ImageSets/Segmentation/train_aug.txt").write_text(lines)
    return root


def test_the_augmented_split_names_its_folder_of_masks(tmp_path: Path) -> None:
    lines = "".join(f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png\n" for n in "ca")
    root = augmented(tmp_path, lines)
    data = VOCFolder(root, "train_aug")
    assert (data.names, data.labels) == (["c", "a"], "SegmentationClassAug")
    assert data.target(1).tolist() == MASKS["a"]
    with pytest.raises(SegmendError, match="SegmentationClass: no such folder"):
        VOCFolder(root, "train_aug", labels="SegmentationClass")
    (root / "ImageSets/Segmentation/bare.txt").write_text("a\n")
    bare = VOCFolder(root, "bare", labels="SegmentationClassAug")
    assert bare[0]["target"].tolist() == MASKS["a"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/JPEGImages/b.jpg /Aug/b.png /more/b.png", "line 2: want an image ID, or"),
        ("/b.jpg", "line 2: want an image ID, or"),
        ("/JPEGImages/b.jpg /Aug/c.png", "line 2: the image and the mask have different names"),
        ("/JPEGImages/b.jpg /Other/b.png", "several folders of masks: Other, SegmentationClassAug"),
        ("/JPEGImages/a.jpg /SegmentationClassAug/a.png", "line 2: 'a' is listed twice"),
    ],
)
def test_lines_that_fit_no_form(tmp_path: Path, line: str, text: str) -> None:
    root = augmented(tmp_path, f"/JPEGImages/a.jpg /SegmentationClassAug/a.png\n{line}\n")
    with pytest.raises(SegmendError, match=text):
        VOCFolder(root, "train_aug")
