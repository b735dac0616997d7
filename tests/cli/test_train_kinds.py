"""`segmend train --context` and `--rectify`, and `segmend predict` of what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from segmend.cli.main import build_app
from segmend.data.crowded_scenes import write_crowded_scenes
from segmend.data.masks import read_mask
from segmend.data.probability_maps import read_probabilities
from segmend.data.scenes import write_scenes

SMALL = ["--epochs", 1, "--crop", 32, "--batch-size", 2, "--no-progress", "--set", "threads=1"]
THIN = ["--set", "widths=[4,6]", "--set", "patch=[16,16,16]"]


def run(*words: object) -> Result:
    texts = [str(word) for word in words]
    return CliRunner().invoke(build_app(texts), texts)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crowded_scenes(tmp_path_factory.mktemp("scans"), counts=(3, 1, 1), size=(24, 24))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 10, size=(48, 48), num_classes=4, seed=0)
    return folder


def test_context_of_pictures(scans, tmp_path):
    part = scans / "train"
    done = run("train", "--images", part / "images", "--masks", part / "masks", "--context", 3,
               "--out", tmp_path / "run", *SMALL, *THIN)  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["settings"]["num_context"] == 3
    done = run("predict", "--checkpoint", tmp_path / "run", "--images", scans / "test/images",
               "--out", tmp_path / "maps", "--no-progress")  # fmt: skip
    assert done.exit_code == 0, done.output
    probs = read_probabilities(tmp_path / "maps/scan_00000.png")
    assert probs.shape == (1, 24, 24)
    assert "1 probability maps" in done.output


def test_context_of_volumes_predicts_volumes(tmp_path):
    import nibabel

    root = write_crowded_scenes(tmp_path / "data", counts=(2, 1, 1), size=(16, 16, 16))
    done = run("train", "--data", root, "--context-method", "dilate", "--out", tmp_path / "run",
               *SMALL, *THIN, "--set", "splits=[2,1,1]")  # fmt: skip
    assert done.exit_code == 0, done.output
    done = run("predict", "--checkpoint", tmp_path / "run", "--images", root / "imagesTr", "--out",
               tmp_path / "labels", "--no-progress")  # fmt: skip
    assert done.exit_code == 0, done.output
    written = sorted((tmp_path / "labels").glob("*.nii.gz"))
    assert written
    assert nibabel.load(written[0]).shape == (16, 16, 16)


def test_rectified_segmenter_of_a_voc_layout(scenes, tmp_path):
    data = ["--data", scenes, "--split", "train", "--rectify"]
    done = run("train", *data, "--out", tmp_path / "run", *SMALL)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run/rectified.json").is_file()
    images = scenes / "JPEGImages"
    names = {path.stem for path in images.iterdir()}
    words = ["predict", "--checkpoint", tmp_path / "run", "--images", images, "--no-progress"]
    done = run(*words, "--masks", "--out", tmp_path / "plain")
    assert done.exit_code == 0, done.output
    assert {path.stem for path in (tmp_path / "plain").glob("*.png")} == names
    done = run(*words, "--masks", "--out", tmp_path / "crf", "--set", "crf=confident-labels")
    assert done.exit_code == 0, done.output
    changed = [
        not torch.equal(*(read_mask(tmp_path / kind / f"{name}.png", num_classes=4)
                          for kind in ("plain", "crf")))
        for name in names
    ]  # fmt: skip
    assert any(changed)


def test_a_recipe_of_a_whole_run_lends_its_segmenter(scenes, tmp_path):
    done = run("train", "--data", scenes, "--split", "train", "--rectify", "--recipe",
               "affinitynet+ocr", "--out", tmp_path / "run", *SMALL)  # fmt: skip
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert settings["form"] == "foreground"
    assert settings["epochs"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rectify", "--context", "2"], "--context: not possible with --rectify"),
        (["--context", "2", "--tags", "t.csv"], "--tags: not possible"),
        (["--context", "2", "--folds", "2"], "--folds: not possible with --context"),
        (["--split", "train"], "--split: not possible"),
        (["--rectify", "--context-maps", "m"], "--context: not possible with --rectify"),
        (["--context", "2", "--context-method", "maps"], "wants --context-maps"),
        (["--context-maps", "m", "--context-method", "dilate"], "are for method maps"),
        (["--recipe", "cam++"], "cam++"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    words, told, scans, tmp_path
):
    part = scans / "train"
    done = run("train", "--images", part / "images", "--masks", part / "masks",
               "--out", tmp_path / "run", *words)  # fmt: skip
    assert done.exit_code == 2
    assert told in done.output
    assert not (tmp_path / "run").exists()


def test_predicted_tags_of_another_network_are_no_setting_here(scenes, tmp_path):
    done = run("train", "--data", scenes, "--split", "train", "--rectify", "--out",
               tmp_path / "run", *SMALL)  # fmt: skip
    assert done.exit_code == 0, done.output
    done = run("predict", "--checkpoint", tmp_path / "run", "--images", scenes / "JPEGImages",
               "--out", tmp_path / "maps", "--set", "tags_from=classifier")  # fmt: skip
    assert done.exit_code == 2
    assert "tags_from" in done.output
    assert not (tmp_path / "maps").exists()
