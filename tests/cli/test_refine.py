"""`segmend refine` end to end: fit, apply, resume, import, and what happens to bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from segmend.cli.main import build_app
from segmend.data.masks import read_mask, write_mask
from segmend.data.probability_maps import read_probabilities, write_probabilities
from segmend.refine import Refiner
from tests_support import run_command

SETS = ["--set", "epochs=2", "--set", "width=8", "--set", "crop=32", "--set", "folds=2"]


@pytest.fixture
def data(tmp_path):
    """Eight noisy maps of discs with their masks and images."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(40), indexing="ij")
    for index in range(8):
        disc = ((y - 10 - index) ** 2 + (x - 20) ** 2 < 80).long()
        logits = 4.0 * disc - 2 + torch.randn(32, 40, generator=generator)
        write_probabilities(tmp_path / "probs" / f"img{index}.png", logits.sigmoid()[None])
        write_mask(tmp_path / "masks" / f"img{index}_mask.png", disc)
    return tmp_path


def fit(data, *more):
    return run_command(
        "refine", "fit", "--probs", data / "probs", "--masks", data / "masks",
        "--out", data / "refiner", *SETS, *more,
    )  # fmt: skip


def apply(data, out="out", *more):
    return run_command(
        "refine", "apply", "--refiner", data / "refiner", "--probs", data / "probs",
        "--out", data / out, *more,
    )  # fmt: skip


def test_fit_then_apply_writes_what_the_refiner_says(data):
    done = fit(data)
    assert done.exit_code == 0, done.output
    assert "cross-validated IoU" in done.output
    assert json.loads((data / "refiner" / "run.json").read_text())["settings"]["epochs"] == 2
    assert apply(data, "out", "--write", "both").exit_code == 0
    refiner = Refiner.load(data / "refiner")
    for index in range(8):
        refined = refiner(read_probabilities(data / "probs" / f"img{index}.png")[None])[0]
        written = read_probabilities(data / "out" / "probs" / f"img{index}.png")
        torch.testing.assert_close(written, refined, atol=1e-4, rtol=0)
        mask = read_mask(data / "out" / "masks" / f"img{index}.png")
        assert torch.equal(mask, (refined[0] > 0.5).long())


def test_apply_goes_on_where_it_stopped(data):
    fit(data)
    apply(data)
    (data / "out" / "img3.png").unlink()
    kept = (data / "out" / "img2.png").stat().st_mtime_ns
    again = apply(data)
    assert "1 maps refined" in again.output
    assert "7 done before" in again.output
    assert (data / "out" / "img2.png").stat().st_mtime_ns == kept


def test_recipe_of_the_paper_resolves(data):
    done = fit(data, "--recipe", "refine-published", "--set", "width=2", "--set", "resize=64",
               "--set", "epochs=1", "--set", "folds=0")  # fmt: skip
    assert done.exit_code == 0, done.output
    options = Refiner.load(data / "refiner").options
    assert (options.method, options.merge, options.pseudo_label_weight) == (
        "patch-refine-p64",
        "published",
        0.7,
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("missing mask", "img3"),
        ("truncated", "img3.png"),
        ("empty", "img3.png"),
        ("other size", "img3"),
        ("logits", "img3.npy"),
        ("nan", "img3.npy"),
        ("label", "img3_mask.png"),
    ],
)
def test_bad_file_is_named_and_nothing_is_written(data, spoil, words):
    probs, mask = data / "probs" / "img3.png", data / "masks" / "img3_mask.png"
    if spoil == "missing mask":
        mask.unlink()
    elif spoil == "truncated":
        probs.write_bytes(probs.read_bytes()[:60])
    elif spoil == "empty":
        probs.write_bytes(b"")
    elif spoil == "other size":
        write_mask(mask, torch.zeros(32, 41, dtype=torch.int64))
    elif spoil in ("logits", "nan"):
        probs.unlink()
        np.save(probs.with_suffix(".npy"), np.full((32, 40), 3.0 if spoil == "logits" else np.nan))
    else:
        Image.fromarray(np.full((32, 40), 7, np.uint8)).save(mask)
    done = fit(data)
    assert done.exit_code == 2
    assert words in done.output
    assert not (data / "refiner").exists()


def test_output_folder_that_cannot_be_made_is_named(data):
    (data / "refiner").write_text("a file where a folder should go")
    done = fit(data)
    assert done.exit_code == 2
    assert "refiner" in done.output


def test_killed_apply_leaves_whole_files_only(data):
    fit(data)
    for index in range(8, 200):
        write_probabilities(data / "probs" / f"img{index}.png", torch.rand(1, 64, 64))
    words = ["refine", "apply", "--refiner", data / "refiner", "--probs", data / "probs"]
    command = [sys.executable, "-m", "segmend.cli.main", *words, "--out", data / "out"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    while not list((data / "out").glob("img*.png")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = list((data / "out").glob("img*.png"))
    assert found
    for path in found:
        read_mask(path)
    assert f"{len(found)} done before" in apply(data).output


def test_every_refine_command_has_help():
    assert {c.name for c in build_app().registered_groups} >= {"refine"}
    for name in ("fit", "apply", "import"):
        assert run_command("refine", name, "--help").exit_code == 0
