"""The demo on the bundled images: figures, masks and a picture, from one command."""

import json

import pytest
from PIL import Image

from segmend.data.sample import nuclei_sample
from tests_support import run_command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return out, run_command("demo", "--out", out, "--epochs", 1)


def test_demo_prints_base_against_refined_with_intervals(finished):
    _, done = finished
    assert done.exit_code == 0, done.output
    for words in ("fix", "next: segmend", "foreground IoU, pooled", "boundary F", "gate is"):
        assert words in done.output


def test_demo_ends_in_a_report_of_before_and_after(finished):
    out, _ = finished
    report = (out / "report.html").read_text("utf-8")
    for words in ("Before and after", "20 images"):
        assert words in report


def test_base_that_ships_is_a_good_one(finished):
    out, _ = finished
    figures = json.loads((out / "run.json").read_text())
    base = figures["scores"]["against"]["pooled_iou"]
    assert base > 0.7


def test_every_test_image_gets_both_masks_and_a_picture_is_drawn(finished):
    out, _ = finished
    names = {p.stem for p in nuclei_sample().test_images.iterdir()}
    for kind in ("base", "refined"):
        assert {p.stem for p in (out / "masks" / kind).glob("*.png")} == names
    with Image.open(out / "overlays.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
