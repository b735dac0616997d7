"""`segmend tags run`: all stages in one go, kept, taken up again, and refused when they changed."""

import json

import pytest
import yaml

from segmend.cli import main
from segmend.cli.settings import bundled_recipes
from segmend.cli.tag_recipes import has_sections, resolve_pipeline
from segmend.data.masks import read_mask
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from tests_support import run_command

RECIPE = """
train: {epochs: 1, crop: 64, batch_size: 4, threads: 1, fsl_weight: 1}
cams: {scales: [1.0], flip: false}
affinity: {epochs: 1, crop: 64, batch_size: 4, threads: 1}
masks: {normalisation: max, refine: none}
"""
METHODS = ("cam", "affinitynet", "irn", "seam", "mctformer")
NAMES = [
    f"{m}{plus}{where}" for m in METHODS for plus in ("", "++") for where in ("", "-voc", "-coco")
]


@pytest.fixture(autouse=True)
def _listed(monkeypatch):
    monkeypatch.setitem(main.COMMANDS, "tags run", ("segmend.cli.tags_run:run", "All stages."))


def segmend(*words):
    return run_command("tags", "run", *words)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 8, size=(64, 64), num_classes=4, seed=0)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(main.COMMANDS, "tags run", ("segmend.cli.tags_run:run", "All stages."))
        done = segmend(
            "--data", data, "--split", "train", "--recipe", data / "recipe.yaml", "--out", out
        )
    assert done.exit_code == 0, done.output
    return out


def test_all_stages_leave_what_they_make_and_are_scored(run, data):
    items = TagFolder(data, split="train")
    for index, name in enumerate(items.names):
        labels = read_mask(run / "masks" / f"{name}.png", num_classes=4, encoding="index")
        assert set(labels.unique().tolist()) <= {
            0,
            *(items.tags(index).nonzero().flatten() + 1).tolist(),
        }
    assert (run / "affinity" / "model.safetensors").exists()
    scores = json.loads((run / "scores.json").read_text())
    assert 0 < scores["masks"]["mean_iou"] < 1
    assert scores["maps"]["tag_map"] is not None
    for stage in ("cams", "masks"):
        assert (run / stage / "overlays.png").exists()


def test_what_is_done_is_kept_and_a_stage_can_be_done_again(run, data):
    words = ["--data", data, "--split", "train", "--recipe", data / "recipe.yaml", "--out", run]
    name = TagFolder(data, split="train").names[0]
    files = [
        run / "net" / "model.safetensors",
        run / "cams" / f"{name}.npz",
        run / "masks" / f"{name}.png",
    ]
    before = [path.stat().st_mtime_ns for path in files]
    assert segmend(*words).exit_code == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    changed = [*words, "--set", "masks.walk_steps=4"]
    refused = segmend(*changed)
    assert refused.exit_code == 2
    assert "masks.walk_steps was 256, now 4" in refused.output
    assert "--again masks" in refused.output
    done = segmend(*changed, "--again", "masks")
    assert done.exit_code == 0, done.output
    after = [path.stat().st_mtime_ns for path in files]
    assert after[:2] == before[:2]
    assert after[2] > before[2]


def test_a_folder_of_someone_else_is_left_alone(data, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "mine.png").write_bytes(b"precious")
    done = segmend("--data", data, "--out", tmp_path, "--again", "train")
    assert done.exit_code == 2
    assert (tmp_path / "masks" / "mine.png").read_bytes() == b"precious"


def test_other_images_are_refused(run, data):
    done = segmend("--data", data, "--split", "val", "--recipe", data / "recipe.yaml", "--out", run)
    assert done.exit_code == 2
    assert "other images" in done.output


def test_an_unknown_stage_is_refused(data, tmp_path):
    done = segmend("--data", data, "--out", tmp_path / "o", "--again", "crf")
    assert done.exit_code == 2
    assert "want one of train, cams, affinity, masks" in done.output


@pytest.mark.parametrize("name", NAMES)
def test_recipes_of_all_methods_are_valid_and_the_add_ons_are_all_that_differs(name):
    assert has_sections(yaml.safe_load(bundled_recipes()[name].read_text("utf-8")))
    options = resolve_pipeline(name, [], epochs=None, seed=3)
    assert options.train.seed == 3
    assert (options.affinity is None) or options.affinity.seed == 3
    assert options.train.method == (name.split("-")[0].rstrip("+") if name[0] in "sm" else "cam")
    if "++" in name:
        plain = resolve_pipeline(name.replace("++", ""), [], epochs=None, seed=3).train.model_dump()
        extra = {k for k, v in options.train.model_dump().items() if v != plain[k]}
        assert extra <= {"isl_weight", "fsl_weight", "tagger"}
        assert "fsl_weight" in extra
