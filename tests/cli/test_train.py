"""`segmend train` as a user types it, on eight small images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from segmend.cli.main import build_app
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.probability_maps import read_probabilities
from segmend.engine.checkpoints import load_segmenter

QUICK = [
    "--epochs",
    "1",
    "--crop",
    "32",
    "--batch-size",
    "4",
    "--no-progress",
    "--set",
    "threads=1",
]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = torch.Generator().manual_seed(0)
    for number in range(8):
        mask = torch.zeros(48, 48, dtype=torch.int64)
        mask[number : number + 20, 10:30] = 1
        image = 0.4 * torch.rand(3, 48, 48, generator=rng) + 0.5 * mask
        write_image(tmp_path / "images" / f"{number}.png", image)
        write_mask(tmp_path / "masks" / f"{number}.png", mask)
    return tmp_path / "images", tmp_path / "masks"


def train(folders: tuple[Path, Path], out: Path, *more: str, quick: bool = True) -> Result:
    images, masks = map(str, folders)
    words = ["train", "--images", images, "--masks", masks, "--out", str(out)]
    return CliRunner().invoke(build_app(["train"]), [*words, *(QUICK if quick else []), *more])


def test_trains_and_leaves_a_model_a_curve_and_a_record(folders, tmp_path):
    out = tmp_path / "run"
    result = train(folders, out)
    assert result.exit_code == 0, result.output
    assert "kept epoch 1, validation IoU" in result.output
    model, meta = load_segmenter(out)
    assert meta["model"] == {"architecture": "fpn", "encoder": "squeezenet1_0", "num_classes": 1}
    assert model(torch.rand(1, 3, 9, 9)).shape == (1, 1, 9, 9)
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["crop"] == 32
    assert record["inputs"]["images"] == str(folders[0])
    assert record["best"] == json.loads((out / "curve.json").read_text())[0]
    assert json.loads((out / "train.json").read_text())["images"] == 6  # a fifth is held out


def test_folds_write_a_map_for_every_training_image(folders, tmp_path):
    out = tmp_path / "run"
    result = train(folders, out, "--folds", "2")
    assert result.exit_code == 0, result.output
    maps = sorted((out / "out_of_fold").iterdir())
    assert [p.name for p in maps] == [f"{i}.png" for i in range(8)]
    assert read_probabilities(maps[0]).shape == (1, 48, 48)
    fold_of = json.loads((out / "folds.json").read_text())["fold_of"]
    assert sorted(fold_of.values()) == [0] * 4 + [1] * 4
    load_segmenter(out)
    assert json.loads((out / "train.json").read_text())["images"] == 8


def test_validation_folders_recipe_and_record_repeat_a_run(folders, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "{architecture: unet, num_classes: 3, epochs: 1, crop: 32, batch_size: 4, threads: 1}"
    )
    val = ["--val-images", str(folders[0]), "--val-masks", str(folders[1])]
    first, second = tmp_path / "first", tmp_path / "second"
    result = train(folders, first, "--recipe", str(recipe), "--no-progress", *val, quick=False)
    assert result.exit_code == 0, result.output
    _, meta = load_segmenter(first)
    assert meta["model"] == {"architecture": "unet", "encoder": "squeezenet1_0", "num_classes": 3}
    repeat = ["--recipe", str(first / "run.json"), "--no-progress"]
    result = train(folders, second, *repeat, *val, quick=False)
    assert result.exit_code == 0, result.output
    curves = [json.loads((out / "curve.json").read_text())[0] for out in (first, second)]
    assert curves[0]["train_loss"] == curves[1]["train_loss"]
    assert curves[0]["val_iou"] == curves[1]["val_iou"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--val-images", "x"], "val_masks: want both folders or neither"),
        (["--val-masks", "x"], "val_images: want both folders or neither"),
        (["--set", "epohcs=3"], "Did you mean 'epochs'?"),
        (["--architecture", "fpm"], "unknown name 'fpm'; did you mean fpn"),
        (["--encoder", "resnet18"], "weights"),
        (["--folds", "9"], "folds: want 2 to the number of images (8), got 9"),
        (["--val-fraction", "0.99"], "leaves none to train on"),
        (["--folds", "2", "--patience", "1"], "patience: stopping early wants a val_set"),
        (["--weights", "some"], "weights"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folders, tmp_path, words, text):
    result = train(folders, tmp_path / "run", *words)
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_recipes_that_come_with_segmend_are_valid():
    from segmend.cli.settings import bundled_recipes, resolve
    from segmend.engine.jobs import TrainJob

    names = [name for name in bundled_recipes() if name.startswith("train")]
    assert names
    for name in names:
        assert resolve(TrainJob, Path(name)) != TrainJob()
