"""`segmend data check` and `data get` as a user types them; the server is on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from test_archives import tar, zipped
from test_check import mask, picture
from test_coco import ANNOTATIONS, CATEGORIES, painted
from test_download import Server, md5, server

from segmend.cli.main import build_app
from segmend.data.download import DATASETS
from segmend.data.voc import VOCFolder
from tests_support import run_command

__all__ = ["server"]


def data(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(
        build_app([str(words[0])]), ["data", *map(str, words), "--no-progress"]
    )


def test_check_exits_0_with_warnings_and_2_with_errors(tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        picture(tmp_path / f"images/{name}.png", i)
    mask(tmp_path / "masks/a.png", (0, 1))
    mask(tmp_path / "masks/b.png", (0,))
    out = tmp_path / "report" / "found.json"
    result = data("check", tmp_path, "--json", out)
    assert result.exit_code == 0, result.output
    assert "images and masks, 2 images, 2 masks" in result.output
    assert json.loads(out.read_text())["num_errors"] == 0
    for i in range(12):
        mask(tmp_path / f"masks/x{i}.png", (0, 1))
    result = data("check", tmp_path, "--json", out)
    assert result.exit_code == 2
    assert "error: partner (12)" in result.output
    assert "x9.png: no image of this name" in result.output
    assert "... and 2 more (--json FILE lists all)" in result.output
    assert "12 errors, 0 warnings" in result.output
    assert len(json.loads(out.read_text())["problems"]) == 12
    result = data("check", tmp_path / "none")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_check_takes_folders_from_anywhere(tmp_path: Path) -> None:
    picture(tmp_path / "p/a.png", 0)
    mask(tmp_path / "m/a.png", (0, 2))
    (tmp_path / "t.csv").write_text("image,tag\na,dog\n")
    (tmp_path / "c.txt").write_text("background\ncow\ndog\n")
    result = data(
        "check", tmp_path, "--images", tmp_path / "p", "--masks", tmp_path / "m",
        "--tags", tmp_path / "t.csv", "--classes", tmp_path / "c.txt",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "class 'cow' occurs nowhere" in result.output


def mirror(running: Server, folder: Path, files: dict[str, bytes]) -> list[object]:
    running.files.update(files)
    path = folder / "MD5SUMS"
    path.write_text("".join(f"{md5(content)}  {name}\n" for name, content in files.items()))
    return ["--base-url", running.url, "--checksums", path]


def test_get_voc(server: Server, tmp_path: Path) -> None:
    content = tar({"VOCdevkit/VOC2012/JPEGImages/a.jpg": b"a"})
    options = mirror(server, tmp_path, {DATASETS["voc2012"][0].name: content})
    result = data("get", "voc2012", "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert f"voc2012 is in {tmp_path}/out/VOCdevkit/VOC2012" in result.output.replace("\n", "")
    assert (tmp_path / "out/VOCdevkit/VOC2012/JPEGImages/a.jpg").read_bytes() == b"a"
    assert json.loads((tmp_path / "out/run.json").read_text())["command"] == "data get"


@pytest.mark.parametrize("crowd", ["class", "ignore"])
def test_get_coco_with_masks(server: Server, tmp_path: Path, crowd: str) -> None:
    files = {}
    annotations = {}
    for split in ("train", "val"):
        members, records = {}, []
        for key in (4, 9):
            name = f"{split}_{key}.png"
            path = picture(tmp_path / name, key, size=(6, 8))
            members[f"{split}2017/{name}"] = path.read_bytes()
            records.append({"id": key, "file_name": name, "height": 6, "width": 8})
        index = {"images": records, "annotations": ANNOTATIONS, "categories": CATEGORIES}
        annotations[f"annotations/instances_{split}2017.json"] = json.dumps(index).encode()
        files[f"{split}2017.zip"] = zipped(members)
    files["annotations_trainval2017.zip"] = zipped(annotations)
    options = mirror(server, tmp_path, files)
    out = tmp_path / "out"
    result = data("get", "coco2017", "--out", out, "--crowd", crowd, *options)
    assert result.exit_code == 0, result.output
    written = VOCFolder(out, "val")
    assert written.names == ["val_4", "val_9"]
    assert written[1]["target"].tolist() == painted(crowd)
    assert VOCFolder(out, "train").names == ["train_4", "train_9"]
    assert len(json.loads((out / "tags.json").read_text())) == 4
    asked = len(server.asked)
    assert data("get", "coco2017", "--out", out, "--crowd", crowd, *options).exit_code == 0
    assert len(server.asked) == asked


def test_get_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    for words, text in (
        (["voc2013"], "unknown data set 'voc2013'; want one of voc2012"),
        (["voc2012", "--crowd", "all"], "--crowd: want 'class' or 'ignore'"),
        (["voc2012", "--base-url", server.url], "the server answers 404"),
    ):
        result = data("get", *words, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert text in result.stderr


def test_scenes_of_a_run_record_are_drawn_again(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    done = run_command(
        "data", "scenes", first, "--count", 3, "--set", "size=[32, 48]", "--set", "noise=0.2"
    )
    assert done.exit_code == 0, done.output
    done = run_command("data", "scenes", second, "--recipe", first / "run.json")
    assert done.exit_code == 0, done.output
    names = sorted(p.relative_to(first) for p in first.rglob("*.png"))
    assert len(names) == 6
    assert all((first / n).read_bytes() == (second / n).read_bytes() for n in names)
    done = run_command("data", "scenes", second, "--set", "sizes=3")
    assert done.exit_code == 2
    assert "Did you mean 'size'?" in done.output
