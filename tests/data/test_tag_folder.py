"""Data sets with tags on tiny folders: plain ones and the VOC layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_voc import MASKS, make

from segmend.data.scenes import write_scenes
from segmend.data.tag_table import tag_classes
from segmend.data.tags import TagFolder
from segmend.data.voc import VOCFolder
from segmend.errors import SegmendError


def plain(root: Path, csv: str, names: tuple[str, ...] = ("a", "sub/b", "c")) -> Path:
    for name in names:
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 3, 3), 64, np.uint8)).save(path)
    (root / "tags.csv").write_text(csv)
    return root / "images"


CSV = "image,tags\na,dog;cow\nsub/b,\nc,cow\n"


def test_any_folder_with_a_csv(tmp_path: Path) -> None:
    data = TagFolder(plain(tmp_path, CSV))
    assert data.classes == ("background", "cow", "dog")
    assert (data.background, data.num_classes, data.num_tags, len(data)) == (0, 3, 2, 3)
    assert data.names == ["a", "c", "sub/b"]
    assert data.tag_table().tolist() == [[1, 1], [1, 0], [0, 0]]
    item = data[0]
    assert (item["name"], item["image"].shape) == ("a", (3, 2, 3))
    assert item["tags"].dtype == torch.float32
    assert "target" not in item


@pytest.mark.parametrize("text", ["dog\ncow\nsheep\n", '["dog", "cow", "sheep"]'])
def test_the_class_list_sets_the_order(tmp_path: Path, text: str) -> None:
    images = plain(tmp_path, CSV)
    name = "classes.json" if text.startswith("[") else "classes.txt"
    (tmp_path / name).write_text(text)
    data = TagFolder(images)
    assert (data.classes, data.background) == (("dog", "cow", "sheep"), None)
    assert data.tag_table().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    given = TagFolder(images, classes=["background", "cow", "dog"])
    assert given.tag_table()[0].tolist() == [1, 1]


def test_labels_instead_of_names(tmp_path: Path) -> None:
    images = plain(tmp_path, "image,tags\na,2;1\nsub/b,\nc,1\n")
    data = TagFolder(images, classes=["background", "cow", "dog"])
    assert data.tag_table().tolist() == [[1, 1], [1, 0], [0, 0]]
    (tmp_path / "t.json").write_text('{"a": [0], "sub/b": [], "c": [1, "dog"]}')
    data = TagFolder(images, tags=tmp_path / "t.json", classes=["cow", "dog", "pig"])
    assert data.tag_table().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("csv", "text"),
    [
        ("image,tags\na,cwo\nsub/b,\nc,\n", r"csv, line 2: image 'a': unknown tag 'cwo'.*'cow'"),
        ("image,tags\na,7\nsub/b,\nc,\n", r"csv, line 2: image 'a': unknown tag '7'"),
        ("image,tags\na,background\nsub/b,\nc,\n", r"csv, line 2: .* is no tag"),
        ("image,tags\na,\nc,\n", r"1 images have no row: sub/b"),
        (CSV + "x,cow\n", r"1 rows name an image that is not there: x \(.*csv, line 5\)"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, csv: str, text: str) -> None:
    images = plain(tmp_path, csv)
    with pytest.raises(SegmendError, match=text):
        TagFolder(images, classes=["background", "cow", "dog"])


def test_partial_keeps_what_is_complete(tmp_path: Path) -> None:
    data = TagFolder(plain(tmp_path, "image,tags\nx,cow\nc,dog\na,cow\n"), partial=True)
    assert data.names == ["a", "c"]
    assert data.tag_table().tolist() == [[1, 0], [0, 1]]
    assert data[1]["name"] == "c"


def test_masks_give_targets_and_tags(tmp_path: Path) -> None:
    images = plain(tmp_path, CSV)
    for name, row in {"a": [0, 2, 255], "sub/b": [0, 0, 0], "c": [1, 1, 2]}.items():
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([row, row], np.uint8)).save(path)
    options = {"masks": tmp_path / "masks", "classes": ["background", "cow", "dog"]}
    data = TagFolder(images, tags="masks", **options)
    assert data.tag_table().tolist() == [[0, 1], [1, 1], [0, 0]]
    assert data[0]["target"].tolist() == [[0, 2, 255]] * 2
    assert data[0]["tags"].tolist() == [0, 1]
    assert TagFolder(images, **options)[0]["tags"].tolist() == [1, 1]
    with pytest.raises(SegmendError, match="tags='masks' needs masks"):
        TagFolder(images, tags="masks")


def test_voc_layout_takes_tags_from_json_masks_or_boxes(tmp_path: Path) -> None:
    root = make(tmp_path, classes=["background", "cow", "dog"])
    data = TagFolder(root, split="train")
    assert (data.names, data.classes) == (["b", "a"], ("background", "cow", "dog"))
    assert data.tag_table().tolist() == [[1, 1], [1, 0]]
    assert data[1]["target"].tolist() == MASKS["a"]
    assert TagFolder(root).names == ["a", "b", "c", "d"]
    boxes = root / "Annotations"
    boxes.mkdir()
    for name in MASKS:
        (boxes / f"{name}.xml").write_text(
            "<annotation><object><name>dog</name></object></annotation>"
        )
    assert TagFolder(root, split="train", tags=boxes).tag_table().tolist() == [[0, 1], [0, 1]]
    (root / "tags.json").write_text(json.dumps({name: ["cow"] for name in MASKS}))
    assert TagFolder(root, split="val").tag_table().tolist() == [[1, 0], [1, 0]]
    (root / "SegmentationClass/a.png").unlink()
    with pytest.raises(SegmendError, match="1 of 2 files missing: a; with_masks=False"):
        TagFolder(root, split="train")
    unmasked = TagFolder(root, split="train", with_masks=False)
    assert unmasked.names == ["b", "a"]
    assert "target" not in unmasked[0]
    assert TagFolder(root, split="train", partial=True).names == ["b"]


def test_a_split_may_leave_rows_out_but_needs_its_own(tmp_path: Path) -> None:
    root = make(tmp_path, classes=["background", "cow"])
    (root / "tags.json").write_text('{"a": ["cow"], "c": [],\n"x": []}')
    with pytest.raises(SegmendError, match=r"no row: b\n.*not there: x \(.*json, line 2\)"):
        TagFolder(root, split="train")
    (root / "tags.json").write_text('{"a": ["cow"], "b": [], "c": []}')
    assert TagFolder(root, split="train").tag_table().tolist() == [[0], [1]]


def test_multi_hot_arrays_with_ids_that_lost_their_underscore(tmp_path: Path) -> None:
    images = plain(tmp_path, CSV, names=("2007_000032", "2007_000039"))
    (tmp_path / "tags.csv").unlink()
    content = {2007000032: np.array([0, 1.0]), "2007_000039": np.array([1.0, 0])}
    np.save(tmp_path / "cls_labels.npy", content, allow_pickle=True)
    options = {"tags": tmp_path / "cls_labels.npy"}
    data = TagFolder(images, classes=["background", "cow", "dog"], **options)
    assert data.tag_table().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(SegmendError, match=r"entry '2007000032': position 1 of a multi-hot"):
        TagFolder(images, classes=["background", "cow"], **options)
    with pytest.raises(SegmendError, match="the tags name no classes; give `classes`"):
        TagFolder(images, **options)


def test_scenes_have_the_tags_of_their_masks(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "s", 12, size=(24, 24), num_classes=3, empty=0.3)
    data = TagFolder(root, split="train")
    masks = VOCFolder(root, "train")
    assert data.names == masks.names
    expected = torch.stack([masks.tags(i) for i in range(len(masks))])
    assert torch.equal(data.tag_table().long(), expected)


def test_no_tags_anywhere_says_what_was_looked_for(tmp_path: Path) -> None:
    images = plain(tmp_path, CSV)
    (tmp_path / "tags.csv").unlink()
    with pytest.raises(SegmendError, match=r"no tags found \(tags\.json, tags\.csv"):
        TagFolder(images)
    with pytest.raises(SegmendError, match="needs the VOC layout"):
        TagFolder(images, split="train")


@pytest.mark.parametrize(
    ("content", "text"),
    [("[]", "want a list"), ("{", "cannot be read"), ('["a", "a"]', "'a' is there twice"),
     ('["background"]', "nothing but the background"), ("[1]", "1 is no name")],
)  # fmt: skip
def test_class_lists_are_checked(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(SegmendError, match=rf"classes\.json: .*{text}"):
        tag_classes(tmp_path / "classes.json")
