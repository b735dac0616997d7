"""`segmend tags` end to end: tags to maps to masks to figures, on procedural scenes."""

import json
import shutil
from typing import get_args

import pytest
import torch
from PIL import Image

from segmend.cli.run_options import resolve_run
from segmend.cli.tag_recipes import resolve_stage
from segmend.data.masks import read_mask
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.tags.affinity_jobs import AffinityOptions
from segmend.tags.cam_files import read_cams
from segmend.tags.network import Method
from segmend.tags.options import TagOptions
from tests_support import run_command as segmend

QUICK = ["--set", "crop=64", "--set", "batch_size=4", "--epochs", 1, "--set", "threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 10, size=(64, 64), num_classes=4, seed=0)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Train with both add-ons, draw maps, make masks: the commands of the documentation."""
    out = tmp_path_factory.mktemp("run")
    here = ["--data", data, "--split", "train"]
    steps = [
        ["train", *here, "--out", out / "net", "--recipe", "cam++", *QUICK],
        ["cams", "--run", out / "net", *here, "--out", out / "cams", "--set", "scales=[1.0]"],
        ["masks", "--cams", out / "cams", *here, "--out", out / "masks", "--constant", 0.3],
    ]
    for step in steps:
        done = segmend("tags", *step)
        assert done.exit_code == 0, done.output
    return out


def test_maps_are_there_for_the_tags_of_every_image_and_no_other(run, data):
    items = TagFolder(data, split="train")
    for index, name in enumerate(items.names):
        file = read_cams(run / "cams" / f"{name}.npz")
        assert torch.equal(file.tags(), items.tags(index))
        assert file.size == (64, 64)


def test_masks_hold_candidates_only(run, data):
    items = TagFolder(data, split="train")
    for index, name in enumerate(items.names):
        labels = read_mask(run / "masks" / f"{name}.png", num_classes=4, encoding="index")
        allowed = {0, *(int(c) + 1 for c in items.tags(index).nonzero())}
        assert set(labels.unique().tolist()) <= allowed


@pytest.mark.parametrize("step", ["cams", "masks"])
def test_pictures_are_drawn(run, step):
    with Image.open(run / step / "overlays.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 500


def test_the_run_says_how_to_repeat_it_and_keeps_two_networks(run):
    record = json.loads((run / "net" / "run.json").read_text())
    assert record["settings"]["fsl_weight"] == 15
    assert (run / "net" / "tagger" / "model.safetensors").exists()
    plain = json.loads((run / "net" / "tagger" / "train.json").read_text())
    assert plain["options"]["fsl_weight"] == 0


@pytest.mark.parametrize("what", ["cams", "masks"])
def test_scores_are_printed_and_written(run, data, tmp_path, what):
    option = "--pred" if what == "masks" else "--cams"
    done = segmend(
        "tags", "evaluate", "--data", data, "--split", "train", option, run / what,
        "--out", tmp_path / "scores.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert 0 < scores["mean_iou"] < 1
    assert scores["out_of_candidate"] == 0
    assert (scores["tag_map"] is None) == (what == "masks")
    assert "mIoU" in done.output


@pytest.mark.parametrize("method", ["affinitynet", "irn"])
def test_an_affinity_network_learns_from_the_maps_and_masks_take_its_walk(
    run, data, tmp_path, method
):
    here = ["--cams", run / "cams", "--data", data, "--split", "train"]
    done = segmend(
        "tags", "affinity", "--run", run / "net", *here, "--out", tmp_path / "net",
        "--method", method, *QUICK,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    labels = list((tmp_path / "net" / "labels").glob("*.png"))
    assert len(labels) == len(TagFolder(data, split="train"))
    done = segmend(
        "tags", "masks", *here, "--affinity", tmp_path / "net", "--out", tmp_path / "masks",
        "--refine", "none",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    names = TagFolder(data, split="train").names
    plain, walked = (
        torch.cat(
            [
                read_mask(folder / f"{name}.png", num_classes=4, encoding="index").flatten()
                for name in names
            ]
        )
        for folder in (run / "masks", tmp_path / "masks")
    )
    assert not torch.equal(plain, walked)


def test_seam_draws_the_maps_that_pixel_correlation_revised(data, tmp_path):
    here = ["--data", data, "--split", "train"]
    for step in (
        ["train", *here, "--out", tmp_path / "net", "--recipe", "seam++", *QUICK],
        [
            "cams",
            "--run",
            tmp_path / "net",
            *here,
            "--out",
            tmp_path / "c",
            "--set",
            "scales=[1.0]",
        ],
    ):
        done = segmend("tags", *step)
        assert done.exit_code == 0, done.output
    files = [read_cams(p) for p in (tmp_path / "c").glob("*.npz")]
    assert (
        max(float(f.cams.max()) for f in files if len(f.classes)) <= 2 + 1e-3
    )  # two views of [0, 1]


def test_amn_learns_from_the_confident_parts_of_plain_maps(data, tmp_path):
    here = ["--data", data, "--split", "train"]
    net = tmp_path / "net"
    for step in (
        ["train", *here, "--out", net, "--recipe", "amn++", *QUICK],
        ["cams", "--run", net, *here, "--out", tmp_path / "c", "--set", "scales=[1.0]"],
    ):
        done = segmend("tags", *step)
        assert done.exit_code == 0, done.output
    items = TagFolder(data, split="train")
    for index, name in enumerate(items.names):
        allowed = {0, 255, *(int(c) + 1 for c in items.tags(index).nonzero())}
        labels = read_mask(net / "labels" / f"{name}.png", num_classes=4, encoding="index")
        assert set(labels.unique().tolist()) <= allowed
        assert not torch.equal(
            read_cams(net / "seeds" / f"{name}.npz").cams,
            read_cams(tmp_path / f"c/{name}.npz").cams,
        )
    plain = json.loads((net / "tagger" / "train.json").read_text())["options"]
    assert (plain["method"], plain["fsl_weight"]) == ("cam", 0)


METHODS = {name: name for name in get_args(Method)} | {
    "affinitynet": "cam", "irn": "cam", "mctformer-plus": "mctformer+",
}  # fmt: skip
del METHODS["mctformer+"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_recipe_and_one_with_the_losses_alone_added(name):
    plain, boosted = (resolve_run(name + plus, [], epochs=None, seed=None) for plus in ("", "++"))
    assert plain.train.method == METHODS[name]
    assert plain.train.fsl_weight == plain.train.isl_weight == 0
    assert boosted.train.fsl_weight > 0
    losses = {"isl_weight", "fsl_weight", "fsl_form", "fsl_trust"}
    added = losses | {"tagger", "start_from_tagger"}
    assert boosted.train.start_from_tagger in (plain.train.start_from_tagger, "auto")
    assert boosted.train.model_dump(exclude=added) == plain.train.model_dump(exclude=added)
    assert boosted.cams.plain_share in (0, "auto")
    assert boosted.model_copy(update={"train": plain.train, "cams": plain.cams}) == plain
    assert boosted.cams.model_copy(update={"plain_share": 0}) == plain.cams


def test_a_stage_reads_its_section_of_a_recipe_that_goes_on_to_a_segmenter():
    options = resolve_stage("train", TagOptions, "seam+ocr", ["lr=0.1"], {"epochs": 3})
    assert (options.method, options.lr, options.epochs) == ("seam", 0.1, 3)
    assert resolve_stage("affinity", AffinityOptions, "cam", ["method=irn"]).method == "irn"


def test_a_finished_step_is_not_done_again(run, data):
    path = next((run / "masks").glob("*.png"))
    before = path.stat().st_mtime_ns
    done = segmend(
        "tags", "masks", "--cams", run / "cams", "--data", data, "--split", "train",
        "--out", run / "masks", "--constant", 0.3,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    names = [p for p in (run / "masks").glob("*.png") if p.name != "overlays.png"]
    assert min(p.stat().st_mtime_ns for p in names) <= before


@pytest.fixture(scope="module")
def untagged(data, tmp_path_factory):
    """Some of the images again, alone in a folder."""
    folder = tmp_path_factory.mktemp("untagged")
    for name in TagFolder(data, split="train").names[:3]:
        shutil.copy(data / "JPEGImages" / f"{name}.png", folder)
    return folder


@pytest.mark.parametrize("where", ["network", "folder"])
def test_tags_that_a_network_tells_flow_into_masks_and_labels(run, untagged, tmp_path, where):
    """The data has no tag; those of the plain network are what the file's scores say."""
    here = ["--data", untagged, "--tags", "none", "--classes", run / "net" / "classifier.json"]
    source = "network" if where == "network" else run / "net" / "tagger"
    for step in (
        ["cams", "--run", run / "net", *here, "--out", tmp_path / "c", "--tags-from", source,
         "--set", "tag_threshold=0.0001", "--set", "scales=[1.0]"],
        ["masks", "--cams", tmp_path / "c", *here, "--out", tmp_path / "m", "--constant", 0.05],
        ["affinity", "--run", run / "net", "--cams", tmp_path / "c", *here, "--out",
         tmp_path / "a", *QUICK],
    ):  # fmt: skip
        done = segmend("tags", *step)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "c" / "overlays.png").exists()
    for path in tmp_path.glob("c/*.npz"):
        file = read_cams(path)
        assert torch.equal(file.tags(), (file.scores.sigmoid() >= 0.0001).float())
        assert file.tags().any()
    for folder in ("m", "a/labels"):
        shown = [
            read_mask(path, num_classes=4, encoding="index").unique().tolist()
            for path in (tmp_path / folder).glob("*.png")
            if path.name != "overlays.png"
        ]
        assert any(set(values) - {0, 255} for values in shown)


def test_without_tags_from_a_network_an_image_without_tags_is_background(run, untagged, tmp_path):
    here = ["--data", untagged, "--tags", "none", "--classes", run / "net" / "classifier.json"]
    for step in (
        ["cams", "--run", run / "net", *here, "--out", tmp_path / "c"],
        ["masks", "--cams", tmp_path / "c", *here, "--out", tmp_path / "m"],
    ):
        done = segmend("tags", *step)
        assert done.exit_code == 0, done.output
    for path in tmp_path.glob("m/[!o]*.png"):
        assert not read_mask(path, num_classes=4, encoding="index").any()


def test_maps_from_gradients_are_those_of_average_pooling_up_to_scale(run, data, tmp_path):
    words = [
        "--run", run / "net", "--data", data, "--split", "val", "--set", "scales=[1.0]",
        "--set", "flip=false",
    ]  # fmt: skip
    for maps in ("cam", "grad-cam"):
        done = segmend("tags", "cams", *words, "--maps", maps, "--out", tmp_path / maps)
        assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "grad-cam" / "run.json").read_text())
    assert record["settings"]["maps"] == "grad-cam"
    for name in TagFolder(data, split="val").names:
        one, two = (read_cams(tmp_path / maps / f"{name}.npz").cams for maps in ("cam", "grad-cam"))
        assert one.any()
        cells = 64 // 8 * (64 // 8)
        torch.testing.assert_close(two * cells, one, atol=2e-3 * float(one.max()), rtol=1e-2)


def test_an_unknown_kind_of_map_is_refused(run, data, tmp_path):
    done = segmend(
        "tags", "cams", "--run", run / "net", "--data", data, "--out", tmp_path, "--maps", "gradcam"
    )
    assert done.exit_code == 2
    assert "grad-cam" in done.output


def test_maps_of_a_network_for_other_classes_are_refused(run, tmp_path):
    write_scenes(tmp_path / "other", 4, size=(64, 64), num_classes=3, seed=0)
    done = segmend(
        "tags", "cams", "--run", run / "net", "--data", tmp_path / "other", "--out", tmp_path / "c"
    )
    assert done.exit_code == 2
    assert "trained on classes" in done.output


def test_missing_maps_are_named(data, tmp_path):
    done = segmend("tags", "masks", "--cams", tmp_path, "--data", data, "--out", tmp_path / "m")
    assert done.exit_code == 2
    assert ".npz" in done.output
