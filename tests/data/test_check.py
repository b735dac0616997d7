"""Sets with one thing wrong at a time, and a sound one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmend.data.check import Report, check_dataset
from segmend.data.scenes import write_scenes
from segmend.errors import SegmendError


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, labels: tuple[int, ...], size: tuple[int, int] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.resize(np.array(labels, np.uint8), size)
    Image.fromarray(pixels).save(path)
    return path


def of_kind(report: Report, kind: str) -> list[str]:
    return [problem.text for problem in report.problems if problem.kind == kind]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    for i, (name, labels) in enumerate({"a": (0, 1), "b": (0, 2), "c": (0, 1, 2)}.items()):
        picture(tmp_path / f"JPEGImages/{name}.png", i)
        mask(tmp_path / f"SegmentationClass/{name}.png", labels)
    (tmp_path / "classes.json").write_text('["background", "cow", "dog", "pig"]')
    (tmp_path / "tags.json").write_text('{"a": ["cow"], "b": ["dog"],\n"c": ["cow", "dog"]}')
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    return tmp_path


def test_a_sound_set_has_statistics_and_no_error(voc: Path) -> None:
    steps = []
    report = check_dataset(voc, on_file=lambda *x: steps.append(x))
    assert report.num_errors == 0
    assert [p.text for p in report.problems] == ["class 'pig' occurs nowhere"]
    assert steps == [(i, 6) for i in range(1, 7)]
    classes = report.statistics["classes"]
    assert classes["cow"] == {
        "images_tagged": 2,
        "images_with_mask": 2,
        "share_of_pixels": pytest.approx((1 / 2 + 1 / 3) / 3),
    }
    assert "images_tagged" not in classes["background"]
    assert report.statistics["images_by_number_of_tags"] == {"1": 2, "2": 1}
    assert report.statistics["sizes"]["most_common"] == [20, 24]
    assert json.loads(json.dumps(report.summary()))["num_warnings"] == 1


def test_scenes_pass(tmp_path: Path) -> None:
    report = check_dataset(write_scenes(tmp_path / "s", 10, size=(24, 24), num_classes=3))
    assert report.num_errors == 0
    assert report.layout == "voc"


def test_every_problem_of_the_files_is_listed(voc: Path) -> None:
    mask(voc / "SegmentationClass/a.png", (0, 9))
    mask(voc / "SegmentationClass/b.png", (0, 2), size=(5, 5))
    mask(voc / "SegmentationClass/x.png", (0,))
    (voc / "JPEGImages/c.png").write_bytes(b"no picture")
    picture(voc / "JPEGImages/a.jpg", 7)
    report = check_dataset(voc)
    (unexpected,) = of_kind(report, "mask")
    assert "a.png: labels [9] found; want 0 .. 3" in unexpected
    assert "b.png is 5x5 (height x width), but its image" in of_kind(report, "size")[0]
    assert of_kind(report, "partner") == [f"{voc}/SegmentationClass/x.png: no image of this name"]
    assert "c.png: cannot be read" in of_kind(report, "image")[0]
    assert "a.png: the same name as" in of_kind(report, "same name")[0]
    assert report.num_errors == 5


def test_lists_name_what_is_missing_and_what_is_twice(voc: Path) -> None:
    lists = voc / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("a\nx\nc\ny\n")
    (lists / "test.txt").write_text("b\nb\n")
    (voc / "SegmentationClass/c.png").unlink()
    report = check_dataset(voc)
    listed = of_kind(report, "list")
    assert len(listed) == 3
    assert any("test.txt, line 2: 'b' is listed twice" in text for text in listed)
    assert sum("has no image" in text for text in listed) == 2
    assert of_kind(report, "partner") == [f"{voc}/JPEGImages/c.png: no mask of this name"]
    assert of_kind(report, "in both lists") == ["c: in both train.txt and val.txt"]


def test_every_problem_of_the_tags_is_listed(voc: Path) -> None:
    (voc / "tags.json").write_text(
        '{\n"a": ["cow", "cwo", "ox"],\n"x": ["dog"],\n"a": ["dog"],\n"b": ["pig", "dog", "cow"]\n}'
    )
    report = check_dataset(voc)
    texts = of_kind(report, "tags")
    for wanted in (
        "line 2: image 'a': unknown tag 'cwo'; did you mean 'cow'?",
        "line 2: image 'a': unknown tag 'ox'",
        "line 3: image 'x' is not there",
        "line 4: image 'a' has tags already",
        "image 'c' has no row",
    ):
        assert sum(wanted in text for text in texts) == 1, wanted
    assert len(texts) == report.num_errors == 5
    assert "b.png: all 3 classes" in of_kind(report, "all tags")[0]
    assert "b: cow, pig: not in its mask" in of_kind(report, "tags and mask")


def test_warnings_alone_are_no_errors(voc: Path) -> None:
    (voc / "tags.json").write_text('{"a": [], "b": ["dog"], "c": ["cow", "dog"]}')
    (voc / "JPEGImages/b.png").write_bytes((voc / "JPEGImages/c.png").read_bytes())
    mask(voc / "SegmentationClass/c.png", (255,))
    picture(voc / "JPEGImages/a.png", 0, size=(1, 1))
    mask(voc / "SegmentationClass/a.png", (1,), size=(1, 1))
    report = check_dataset(voc)
    assert report.num_errors == 0
    kinds = {problem.kind for problem in report.problems}
    assert kinds >= {
        "no tag", "same content", "all ignored", "small", "tags and mask", "absent class"
    }  # fmt: skip
    assert "a: cow: not tagged" in of_kind(report, "tags and mask")


def test_images_and_masks_paired_by_their_stems(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        picture(tmp_path / f"images/{name}.jpg", i)
    mask(tmp_path / "masks/a_mask.png", (0, 255))
    mask(tmp_path / "masks/b_mask.png", (0, 7))
    report = check_dataset(tmp_path)
    assert report.layout == "images and masks"
    assert of_kind(report, "partner") == [f"{tmp_path}/images/c.jpg: no mask of this name"]
    assert "b_mask.png: labels [7] found" in of_kind(report, "mask")[0]
    assert report.num_errors == 2
    assert report.statistics["classes"]["1"]["share_of_pixels"] == 0.5
    assert check_dataset(tmp_path, num_classes=300).num_errors >= 1


def test_images_and_tags(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "sub/b")):
        picture(tmp_path / f"images/{name}.jpg", i)
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg,cow\nsub/b,dog;cow\n")
    report = check_dataset(tmp_path)
    assert (report.layout, report.problems) == ("folder of images", [])
    assert list(report.statistics["classes"]) == ["background", "cow", "dog"]
    (tmp_path / "classes.txt").write_text("cow\n")
    assert "line 3: image 'sub/b': unknown tag 'dog'" in of_kind(check_dataset(tmp_path), "tags")[0]
    (tmp_path / "tags.csv").write_text("nonsense\n")
    assert "line 1: want a header" in of_kind(check_dataset(tmp_path / "images"), "tags")[0]


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="no such folder"):
        check_dataset(tmp_path / "none")
    with pytest.raises(SegmendError, match="no image; want"):
        check_dataset(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(SegmendError, match="JPEGImages: no image; want"):
        check_dataset(tmp_path)
