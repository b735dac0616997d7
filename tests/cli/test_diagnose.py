"""`segmend diagnose` and `segmend report serve` end to end, and what happens to bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from segmend.cli.diagnose import diagnose
from segmend.cli.main import Switches, guarded
from segmend.cli.report import load_report
from segmend.data.images import write_image
from segmend.data.masks import write_mask
from segmend.data.probability_maps import write_probabilities
from segmend.diagnose.save import load

CODE = "from segmend.cli.report import serve; from pathlib import Path; serve(Path({!r}), 0, False)"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight images of a disc; the model finds it too small at the left, too large at the right."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
    for index in range(8):
        distance = ((y - 20) ** 2 + (x - 10 - 4 * index) ** 2).float().sqrt()
        lean = (x - 24) / 8
        logits = (11 - distance + lean) + 0.5 * torch.randn(40, 48, generator=generator)
        name = f"cell_{index}"
        write_probabilities(tmp_path / "probs" / f"{name}.png", logits.sigmoid()[None])
        write_probabilities(tmp_path / "other" / f"{name}.png", (2 * logits).sigmoid()[None])
        write_mask(tmp_path / "masks" / f"{name}.png", (distance < 11).long())
        write_mask(tmp_path / "mended" / f"{name}.png", (distance < 11.5).long())
        write_image(tmp_path / "images" / f"{name}.png", (distance < 11).float().expand(3, 40, 48))
    return tmp_path


def run(data: Path, *more: object, probs: str | None = "probs") -> Result:
    app = typer.Typer()
    app.command()(guarded(diagnose, Switches()))
    words: list[object] = ["--masks", data / "masks", "--out", data / "out", *more]
    words += [] if probs is None else ["--probs", data / probs]
    words += ["--set", "permutations=19", "--set", "num_resamples=50"]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_everything_at_once(data: Path) -> None:
    done = run(
        data, "--images", data / "images", "--against", data / "other", "--mended",
        data / "mended", "--classes", "background,cell",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = load(data / "out" / "report.json")
    assert found.verdict.headline.split()[0] in done.output
    assert "8 images, IoU" in done.output
    assert str(data / "out" / "report.html") in done.output
    for advice in found.verdict.recommendations:
        assert advice.command in done.output  # whole, whatever the terminal's width
    page = (data / "out" / "report.html").read_text("utf-8")
    assert "Before and after mending" in page
    assert "Compared with another model" in page
    assert "cell_3" in page
    with (data / "out" / "images.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8
    record = json.loads((data / "out" / "run.json").read_text("utf-8"))
    assert record["inputs"]["probs"] == str(data / "probs")
    assert record["settings"]["permutations"] == 19


def test_a_report_finds_its_files_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    app = typer.Typer()
    app.command()(guarded(diagnose, Switches()))
    words = ["--masks", "masks", "--probs", "probs", "--images", "images", "--out", "out"]
    words += ["--mended", "mended", "--set", "permutations=9"]
    assert CliRunner().invoke(app, words).exit_code == 0
    monkeypatch.chdir("/")
    found = load_report(data / "out")
    assert set(found) == {"report", "mended"}
    assert found["report"].cases is not None
    case = found["report"].cases[2]
    assert case.name == found["report"].images[2].name
    assert case.image is not None
    assert found["mended"].cases is not None


def test_hard_masks_alone(data: Path) -> None:
    done = run(data, "--pred", data / "mended", "--against", data / "masks", probs=None)
    assert done.exit_code == 0, done.output
    found = load(data / "out" / "report.json")
    assert not found.setting.has_probabilities
    assert load(data / "out" / "against.json").score.pooled == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "patch_size=3"], "patch_size"),
        (["--classes", "a,b,c", "--num-classes", "2"], "3 names for 2 classes"),
        (["--against", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_told_in_a_line(data: Path, more: list[str], message: str) -> None:
    done = run(data, *more)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (data / "out").exists()


def test_a_broken_file_is_named_and_nothing_is_written(data: Path) -> None:
    (data / "probs" / "cell_5.png").write_bytes(b"no picture")
    done = run(data)
    assert done.exit_code == 2
    assert "cell_5.png" in done.output
    assert not (data / "out").exists()


def test_neither_maps_nor_masks(data: Path) -> None:
    assert run(data, probs=None).exit_code == 2


def test_inputs_are_not_written_over(data: Path) -> None:
    app = typer.Typer()
    app.command()(guarded(diagnose, Switches()))
    words = [f"--{role}={data / role}" for role in ("masks", "probs")]
    done = CliRunner().invoke(app, [*words, f"--out={data / 'probs'}"])
    assert done.exit_code == 2
    assert "folder of inputs" in done.output


def test_a_file_in_the_way_is_told_before_the_work(data: Path) -> None:
    (data / "out").write_text("notes", "utf-8")
    done = run(data)
    assert done.exit_code == 2
    assert "is a file; want a folder" in done.output
    assert "diagnosing" not in done.output
    assert (data / "out").read_text("utf-8") == "notes"


def test_hostile_class_names_are_only_names(data: Path) -> None:
    done = run(data, "--classes", "[bold]ground[/],</script><script>alert(1)</script>")
    assert done.exit_code == 0, done.output
    assert "<script>alert" not in (data / "out" / "report.html").read_text("utf-8")
    names = load(data / "out" / "report.json").setting.classes
    assert names == ("[bold]ground[/]", "</script><script>alert(1)</script>")


def test_tags_are_read(data: Path) -> None:
    lines = ["image,tags", *(f"cell_{index},cell" for index in range(8))]
    (data / "tags.csv").write_text("\n".join(lines), "utf-8")
    more = ["--tags", data / "tags.csv", "--classes", "background,cell"]
    assert run(data, *more).exit_code == 0
    (data / "tags.csv").write_text("image,tags\ncell_0,cow\n", "utf-8")
    done = run(data, *more)
    assert done.exit_code == 2
    assert "tags" in done.output


def test_hostile_file_names_are_only_names(data: Path) -> None:
    evil = "<img src=x onerror=alert(1)>[bold]"
    for role in ("probs", "masks"):
        (data / role / "cell_1.png").rename(data / role / f"{evil}.png")
    done = run(data, "--classes", "background,[red]cell</script>")
    assert done.exit_code == 0, done.output
    page = (data / "out" / "report.html").read_text("utf-8")
    assert "<img src=x" not in page
    assert "cell</script>" not in page


def test_volumes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(3):
        truth = np.zeros((14, 16, 6), np.uint8)
        truth[4:10, 3:9, 1:5] = 1
        probs = np.clip(0.8 * truth + 0.1 + 0.05 * generator.standard_normal(truth.shape), 0, 1)
        probs[9:11, :, 3] = 0.7  # the slice with most errors
        for role, voxels in (("masks", truth), ("probs", probs.astype(np.float32))):
            (tmp_path / role).mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(voxels, np.eye(4))
            nibabel.save(image, tmp_path / role / f"scan_{index}.nii.gz")
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "slice 3" in page
    found = load_report(tmp_path / "out")
    assert found["report"].cases is not None
    assert found["report"].cases[1].prediction.ndim == 3


def test_the_server_answers_and_ends(data: Path) -> None:
    assert run(data, "--images", data / "images").exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", CODE.format(str(data / "out"))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line
        with urllib.request.urlopen(f"{found[0]}rows?count=3") as answer:
            assert json.load(answer)["total"] == 8
        with urllib.request.urlopen(f"{found[0]}image/2") as answer:
            assert answer.read().count(b"data:image") == 4
    finally:
        process.terminate()
        process.communicate()


def test_serving_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"report\.json: no such file"):
        load_report(tmp_path)


def test_a_report_whose_files_are_gone_still_opens(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data).exit_code == 0
    (data / "probs" / "cell_0.png").unlink()
    found = load_report(data / "out" / "report.json")
    assert found["report"].cases is None
    assert "no pictures" in capsys.readouterr().err
