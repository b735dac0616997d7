"""`segmend tags` on what real folders hold: only what is wrong stops it, and that is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from segmend.data.images import write_image
from segmend.data.masks import read_mask, write_mask
from tests_support import run_command

QUICK = ["--set", "crop=64", "--set", "batch_size=3", "--epochs", 1, "--set", "threads=1"]
SIZES = {"all": (40, 56), "none": (33, 64), "pixel": (1, 1), "row": (1, 50), "plain": (64, 48)}
TAGS = "image,tags\nall,cat;cow;dog\nnone,\npixel,cat\nrow,dog;cow\nplain,cow\n"


def segmend(*words):
    return run_command("tags", *words)


def photos(folder, csv=TAGS):
    rng = torch.Generator().manual_seed(0)
    for name, size in SIZES.items():
        write_image(folder / f"{name}.png", torch.rand(3, *size, generator=rng))
    (folder / "tags.csv").write_text(csv)
    return folder


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """No tags, all classes, one pixel, one row: trained on, and maps drawn."""
    out = tmp_path_factory.mktemp("awkward")
    data = photos(out / "photos")
    for step in (
        ["train", "--data", data, "--out", out / "net", "--recipe", "cam++", *QUICK],
        ["cams", "--run", out / "net", "--data", data, "--out", out / "cams"],
    ):
        done = segmend(*step)
        assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize("refine", ["crf", "pamr", "none"])
def test_every_image_gets_a_mask_of_its_size_and_tags(awkward, tmp_path, refine):
    here = ["--cams", awkward / "cams", "--data", awkward / "photos", "--out", tmp_path]
    done = segmend("masks", *here, "--refine", refine, "--constant", 0.05)
    assert done.exit_code == 0, done.output
    allowed = {"all": {0, 1, 2, 3}, "none": {0}, "pixel": {0, 1}, "row": {0, 2, 3}, "plain": {0, 2}}
    for name, size in SIZES.items():
        labels = read_mask(tmp_path / f"{name}.png", num_classes=4, encoding="index")
        assert tuple(labels.shape) == size
        assert set(labels.unique().tolist()) <= allowed[name]


@pytest.mark.parametrize("method", ["affinitynet", "irn"])
def test_affinities_take_them_all(awkward, tmp_path, method):
    here = ["--cams", awkward / "cams", "--data", awkward / "photos"]
    net = tmp_path / "net"
    for step in (
        ["affinity", "--run", awkward / "net", *here, "--out", net, "--method", method, *QUICK],
        ["masks", *here, "--affinity", net, "--out", tmp_path / "masks", "--refine", "none"],
    ):
        done = segmend(*step)
        assert done.exit_code == 0, done.output
    for name, size in SIZES.items():
        assert tuple(read_mask(tmp_path / f"masks/{name}.png", num_classes=4).shape) == size


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        pytest.param(TAGS + "plain,cat\n", ["tags.csv", "line 7"], id="an image twice"),
        pytest.param(
            TAGS.replace("plain,cow", "plain,cow;cow"), ["tags.csv", "line 6"], id="a tag twice"
        ),
        pytest.param(TAGS + "lost,cat\n", ["lost", "line 7"], id="no such image"),
        pytest.param(TAGS.replace("row,dog;cow\n", ""), ["no row: row"], id="an image left out"),
        pytest.param("picture;tags\nall;cat\n", ["tags.csv"], id="another header"),
    ],
)
def test_a_broken_list_is_refused_with_its_line(tmp_path, csv, words):
    done = segmend("train", "--data", photos(tmp_path / "photos", csv), "--out", tmp_path / "net")
    assert done.exit_code == 2
    assert all(word in done.output for word in words), done.output
    assert not (tmp_path / "net").exists()


def test_a_tag_that_is_no_class_is_refused_with_its_line(tmp_path):
    data = photos(tmp_path / "photos")
    (data / "classes.txt").write_text("background\ncat\ndog\n")
    done = segmend("train", "--data", data, "--out", tmp_path / "net")
    assert done.exit_code == 2
    assert "tags.csv, line 2" in done.output
    assert "'cow'" in done.output


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n"])
def test_an_image_without_content_is_named_and_what_is_done_is_kept(awkward, tmp_path, content):
    data = photos(tmp_path / "photos")
    (data / "plain.png").write_bytes(content)
    words = ["cams", "--run", awkward / "net", "--data", data, "--out", tmp_path / "cams"]
    done = segmend(*words)
    assert done.exit_code == 2
    assert "plain.png" in done.output
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cams/*.npz")}
    assert kept
    photos(data)
    assert segmend(*words).exit_code == 0
    assert len(list(tmp_path.glob("cams/*.npz"))) == len(SIZES)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())


def test_maps_of_nan_are_named(awkward, tmp_path):
    cams = tmp_path / "cams"
    cams.mkdir()
    for path in awkward.glob("cams/*.npz"):
        (cams / path.name).write_bytes(path.read_bytes())
    with np.load(cams / "plain.npz") as file:
        content = dict(file)
    np.savez(cams / "plain.npz", **{**content, "cams": np.full_like(content["cams"], np.nan)})
    for stage in (["masks"], ["affinity", "--run", awkward / "net"]):
        done = segmend(
            *stage, "--cams", cams, "--data", awkward / "photos", "--out", tmp_path / "o"
        )
        assert done.exit_code == 2
        assert "plain.npz: holds NaN" in done.output


def test_maps_for_another_number_of_classes_are_named(awkward, tmp_path):
    data = photos(tmp_path / "photos", TAGS.replace("cow", "pig;sow"))
    done = segmend("masks", "--cams", awkward / "cams", "--data", data, "--out", tmp_path / "o")
    assert done.exit_code == 2
    assert "3 classes, the data has 4 to tag" in done.output


def test_masks_with_unexpected_labels_are_named(awkward, tmp_path):
    """An indexed PNG of 7 classes against a list of 4, as truth and as prediction."""
    for name, size in SIZES.items():
        write_mask(tmp_path / f"true/{name}.png", torch.zeros(size).long(), encoding="palette")
    Image.fromarray(np.full(SIZES["plain"], 7, np.uint8)).save(tmp_path / "true/plain.png")
    words = ["evaluate", "--data", awkward / "photos", "--masks", tmp_path / "true"]
    for what in (["--cams", awkward / "cams"], ["--pred", tmp_path / "true"]):
        done = segmend(*words, *what)
        assert done.exit_code == 2
        assert "plain.png" in done.output
        assert "7" in done.output
