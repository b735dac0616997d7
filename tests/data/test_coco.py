"""COCO on a small annotation file: polygons and run lengths painted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmend.data.coco import CocoFolder, write_coco
from segmend.data.tags import TagFolder
from segmend.data.voc import VOCFolder
from segmend.errors import SegmendError

HEIGHT, WIDTH = 6, 8


def box(x, y, width, height):
    """A polygon around whole pixels."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(mask):
    """Uncompressed run lengths, column by column, as COCO keeps crowds."""
    counts, value = [], False
    for pixel in mask.T.flatten():
        if not counts or bool(pixel) != value:
            if not counts and pixel:
                counts.append(0)
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


def crowd_mask():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:, 2:] = True
    return mask


# category ids with gaps and out of order, as COCO's
CATEGORIES = [
    {"id": 90, "name": "toothbrush"},
    {"id": 1, "name": "person"},
    {"id": 5, "name": "bus"},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 9, "category_id": 90, "iscrowd": 0, "segmentation": box(0, 0, 4, 4)},
    {"id": 2, "image_id": 9, "category_id": 5, "iscrowd": 0, "segmentation": box(2, 2, 3, 3)},
    {"id": 3, "image_id": 9, "category_id": 1, "iscrowd": 1, "segmentation": runs(crowd_mask())},
    {"id": 4, "image_id": 4, "category_id": 1, "iscrowd": 0, "segmentation": box(1, 1, 2, 2)},
    {"id": 5, "image_id": 4, "category_id": 5, "iscrowd": 0, "segmentation": box(1, 1, 2, 2)},
]


def painted(crowd):
    """Oracle: the same by slices."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    labels[0:4, 0:4] = 3
    labels[2:5, 2:5] = 2
    if crowd == "class":
        labels[crowd_mask()] = 1
    else:
        labels[crowd_mask() & (labels == 0)] = 255
    return labels.tolist()


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path)


def make(root: Path, annotations=ANNOTATIONS, categories=CATEGORIES) -> tuple[Path, Path]:
    images = root / "train2014"
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for key in (9, 4, 7):
        name = f"COCO_train2014_{key:012d}.jpg"
        Image.new("RGB", (WIDTH, HEIGHT), (key, 0, 0)).save(images / name)
        records.append({"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH})
    path = root / "instances.json"
    path.write_text(
        json.dumps({"images": records, "annotations": annotations, "categories": categories})
    )
    return images, path


@pytest.mark.parametrize("crowd", ["class", "ignore"])
def test_later_objects_cover_earlier_ones(coco, crowd, capsys) -> None:
    data = CocoFolder(*coco, crowd=crowd)
    assert data.classes == ("background", "person", "bus", "toothbrush")
    assert data.names == [f"COCO_train2014_{key:012d}" for key in (4, 7, 9)]
    item = data[2]
    assert item["target"].tolist() == painted(crowd)
    assert item["image"].shape == (3, HEIGHT, WIDTH)
    assert item["tags"].tolist() == ([1, 1, 1] if crowd == "class" else [0, 1, 1])
    assert capsys.readouterr().out == ""


def test_a_covered_object_has_no_tag_and_an_empty_image_none(coco) -> None:
    data = CocoFolder(*coco)
    assert data.tags(0).tolist() == [0, 1, 0]
    assert data[1]["target"].sum() == 0
    assert data.tags(1).tolist() == [0, 0, 0]


def test_written_in_the_voc_layout(coco, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    write_coco(out, *coco, split="train", on_image=lambda *x: seen.append(x))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    data, written, tagged = CocoFolder(*coco), VOCFolder(out, "train"), TagFolder(out)
    assert written.classes == data.classes
    assert written.names == data.names == tagged.names
    for i in range(3):
        assert torch.equal(written[i]["target"], data[i]["target"])
        assert torch.equal(tagged[i]["tags"], data[i]["tags"])
        assert torch.equal(tagged[i]["image"], data[i]["image"])


def test_a_second_run_keeps_masks_and_another_choice_is_refused(coco, tmp_path: Path) -> None:
    out = write_coco(tmp_path / "out", *coco, split="train")
    masks = sorted((out / "SegmentationClass").iterdir())
    before = [path.stat().st_mtime_ns for path in masks]
    masks[0].unlink()
    (out / "tags.json").unlink()
    write_coco(out, *coco, split="again")
    assert [path.stat().st_mtime_ns for path in masks][1:] == before[1:]
    assert masks[0].is_file()
    again = TagFolder(out, split="again")
    assert again.names == VOCFolder(out, "train").names
    assert again.tag_table().tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 1]]
    with pytest.raises(SegmendError, match=r"classes\.json: written with other classes"):
        write_coco(out, *coco, split="train", crowd="ignore")


def test_bad_input(coco, tmp_path: Path) -> None:
    images, path = coco
    with pytest.raises(SegmendError, match="crowd: want 'class' or 'ignore'"):
        CocoFolder(*coco, crowd="skip")  # type: ignore[arg-type]
    with pytest.raises(SegmendError, match=r"none\.json: no such file"):
        CocoFolder(images, tmp_path / "none.json")
    for text in ("{", "[]", '{"images": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(SegmendError, match=r"bad\.json: no "):
            CocoFolder(images, tmp_path / "bad.json")
    next(images.iterdir()).unlink()
    with pytest.raises(SegmendError, match="1 of 3 images missing: COCO_train2014"):
        CocoFolder(images, path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"segmentation": []}, "annotation 1 of image 9: it has no segmentation"),
        ({"category_id": 2}, "annotation 1 of image 9: its category is not in the file"),
        ({"segmentation": [["x"]]}, "annotation 1 of image 9: cannot be drawn"),
        ({"segmentation": runs(np.ones((2, 2), bool))}, r"annotation 1 of image 9: its mask is"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change, text) -> None:
    data = CocoFolder(*make(tmp_path, [ANNOTATIONS[0] | change, *ANNOTATIONS[1:]]))
    with pytest.raises(SegmendError, match=text):
        data[2]
