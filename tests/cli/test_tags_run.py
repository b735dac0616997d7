"""`segmend tags run`: all stages in one go, kept, taken up again, and refused when they changed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from segmend.cli import main
from segmend.cli.pipeline import refiner
from segmend.cli.run_options import SegmenterPredictOptions, resolve_run
from segmend.cli.settings import bundled_recipes
from segmend.cli.tag_recipes import has_sections
from segmend.data.masks import read_mask
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError
from segmend.metrics import class_mean, iou, region_counts
from segmend.rectify.files import load_rectified
from segmend.tags.dense_crf import dense_crf
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


SEGMENTER = """
epochs: 1
crop: 64
batch_size: 4
threads: 1
"""
OCR = [f"{m}+ocr{where}" for m in ("affinitynet", "seam", "mctformer")
       for where in ("", "-voc", "-coco")]  # fmt: skip


def segmend(*words):
    return run_command("tags", "run", *words)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 8, size=(64, 64), num_classes=4, seed=0)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "segmenter.yaml").write_text(SEGMENTER)
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


def test_what_is_done_is_kept_and_a_stage_can_be_done_again(run, data, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
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
    options = resolve_run(name, [], epochs=None, seed=3)
    assert options.train.seed == 3
    assert (options.affinity is None) or options.affinity.seed == 3
    assert options.train.method == (name.split("-")[0].rstrip("+") if name[0] in "sm" else "cam")
    if "++" in name:
        plain = resolve_run(name.replace("++", ""), [], epochs=None, seed=3).train.model_dump()
        extra = {k for k, v in options.train.model_dump().items() if v != plain[k]}
        losses = {"isl_weight", "fsl_weight", "fsl_form", "fsl_trust"}
        assert extra <= losses | {"tagger", "start_from_tagger"}
        assert "fsl_weight" in extra


@pytest.fixture(scope="module")
def words(data):
    """Of a run that goes on to a segmenter, but for its folder."""
    return ["--data", data, "--split", "train", "--recipe", data / "recipe.yaml",
            "--segmenter", data / "segmenter.yaml", "--set", "predict.flip=false"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(run, words, tmp_path_factory):
    """The run of masks taken up again with a segmenter: (folder, what was printed)."""
    out = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(run, out)
    done = segmend(*words, "--out", out)
    assert done.exit_code == 0, done.output
    return out, done.output


def stamps(out, *patterns):
    return [p.stat().st_mtime_ns for pattern in patterns for p in sorted(out.glob(pattern))]


def test_a_segmenter_is_trained_on_the_masks_and_scored_on_both_splits(whole, run, data):
    out, printed = whole
    kept = ("net/*.safetensors", "cams/*.npz", "masks/scene*.png")
    assert stamps(out, *kept)
    assert [p.read_bytes() for p in sorted(out.glob(kept[1]))] == [
        p.read_bytes() for p in sorted(run.glob(kept[1]))
    ]
    scores = json.loads((out / "scores.json").read_text())
    for split in ("train", "test"):
        items = TagFolder(data, split=split)
        found = [read_mask(out / "predict" / split / f"{n}.png", num_classes=4, encoding="index")
                 for n in items.names]  # fmt: skip
        counts = sum(region_counts(p[None], items.target(i)[None], num_classes=4)[0]
                     for i, p in enumerate(found))  # fmt: skip
        row = scores["segmenter"][split]
        assert row["mean_iou"] == pytest.approx(float(class_mean(iou(counts)).mean))
        behind = torch.cat([p.flatten() == 0 for p in found]).double().mean()
        assert row["background_share"] == pytest.approx(float(behind))
        assert (out / "predict" / f"{split}-rectified.png").exists()
    for line in ("mIoU", "boundary F", "out-of-candidate pixels", "background pixels"):
        assert len(re.findall(r"\d+\.\d", next(x for x in printed.splitlines() if line in x))) == 4
    assert load_rectified(out / "segmenter").model.spec.head == "hierarchical"


def test_the_segmenter_starts_from_the_maps(whole):
    """Trained a single epoch at a low rate: its backbone is still nearest to the classifier's."""
    out, _ = whole
    options = json.loads((out / "run.json").read_text())["settings"]["segmenter"]
    assert options["start_from"] == "maps"
    from safetensors.torch import load_file

    one, two = (load_file(out / d / "model.safetensors") for d in ("net", "segmenter"))
    name = "stages.0.0.weight"
    torch.testing.assert_close(
        one[f"backbone.{name}"], two[f"trunk.backbone.{name}"], rtol=0, atol=2e-3
    )
    head = two["head.weight"][1:, : one["head.weight"].shape[1]]
    torch.testing.assert_close(head, one["head.weight"], rtol=0, atol=5e-3)


def test_the_segmenter_s_stages_are_kept_refused_and_done_again(whole, words, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    files = ("masks/scene*.png", "segmenter/model.safetensors", "predict/test/*.png")
    before = stamps(out, *files)
    assert segmend(*words, "--out", out).exit_code == 0
    assert stamps(out, *files) == before
    plain = [*words, "--set", "segmenter.rectify_weight=0", "--set", "segmenter.gate=false"]
    refused = segmend(*plain, "--out", out)
    assert refused.exit_code == 2
    assert "segmenter.gate was True, now False" in refused.output
    assert "--again segmenter" in refused.output
    done = segmend(*plain, "--out", out, "--again", "segmenter", "--against", whole[0])
    assert done.exit_code == 0, done.output
    assert load_rectified(out / "segmenter").model.gate is None
    assert stamps(out, files[0]) == before[: len(stamps(out, files[0]))]
    left_out = segmend(*words[:6], "--out", out)
    assert left_out.exit_code == 2
    assert "segmenter was done, now it is left out" in left_out.output


def test_a_folder_of_images_with_tags_gets_a_segmenter_too(data, words, tmp_path):
    """Pictures lie beside the masks: they must not be taken for masks of images."""
    names = TagFolder(data, split="train").names[:4]
    images = tmp_path / "images"
    images.mkdir()
    for name in names:
        shutil.copy(data / "JPEGImages" / f"{name}.png", images)
    tags = json.loads((data / "tags.json").read_text())
    (images / "tags.json").write_text(json.dumps({n: tags[n] for n in names}))
    (images / "classes.json").write_text((data / "classes.json").read_text())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("affinity:", "#"))
    own = ["--data", images, *words[6:], "--recipe", recipe, "--out", tmp_path / "run"]
    for _ in range(2):
        done = segmend(*own)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "segmenter" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "predict").exists()


def test_masks_done_again_take_all_along_and_a_starter_and_the_classifier_s_tags_are_options(
    whole, words, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    files = ("segmenter/model.safetensors", "predict/test/*.png")
    before = stamps(out, *files)
    starter = "starter={epochs: 1, crop: 64, batch_size: 4, threads: 1}"
    masked = ["--set", "predict.masking=all", "--set", "predict.tags_from=classifier",
              "--set", "predict.tag_threshold=1"]  # fmt: skip
    changed = [*words, "--set", starter, *masked, "--set", "masks.walk_power=8", "--out", out]
    done = segmend(*changed, "--again", "masks")
    assert done.exit_code == 0, done.output
    after = stamps(out, *files)
    assert all(new > old for new, old in zip(after, before, strict=True))
    assert (out / "starter" / "model.safetensors").exists()
    # No probability reaches 1: no tag is a candidate, and all is background.
    for path in (out / "predict" / "test").glob("*.png"):
        assert not read_mask(path, num_classes=4, encoding="index").any()


def test_images_that_are_trained_on_are_not_a_test(data, words, tmp_path):
    refused = segmend(*words, "--test-split", "train", "--out", tmp_path / "a")
    assert refused.exit_code == 2
    assert "its images are trained on" in refused.output
    unknown = segmend(*words, "--test-split", "exam", "--out", tmp_path / "b")
    assert unknown.exit_code == 2
    assert "no such list" in unknown.output
    assert not (tmp_path / "a").exists()


def test_the_crf_of_the_settings_ends_the_predictions():
    probs, image = torch.rand(3, 9, 8).softmax(0), torch.rand(3, 9, 8)
    assert refiner(SegmenterPredictOptions()) is None
    found = refiner(SegmenterPredictOptions(crf="final-mctformer"))(probs, image)
    torch.testing.assert_close(found, dense_crf(probs, image, settings="final-mctformer"))
    with pytest.raises(ValueError, match=r"should be 'none', 'affinity-labels', .* or 'walked'"):
        SegmenterPredictOptions(crf="some")


@pytest.mark.parametrize("name", OCR)
def test_recipes_with_a_segmenter_are_those_of_the_maps_and_a_segmenter(name):
    options = resolve_run(Path(name), [], seed=3)
    base = resolve_run(Path(name.replace("+ocr", "")), [], seed=3)
    for stage in ("train", "cams", "affinity", "masks"):
        assert options.of(stage) == base.of(stage)
    assert options.segmenter.seed == 3
    ours = resolve_run(Path(name), [], segmenter=Path("rectify"), seed=3)
    assert options.segmenter == ours.segmenter  # laid over it, the bundled recipe changes nothing
    assert options.segmenter.rectify_weight > 0
    assert options.predict.crf != "none"
    assert (options.starter is None) == (name != "mctformer+ocr")
    plain = resolve_run(Path(name), [], segmenter=Path("rectify-off"), seed=3).segmenter
    ocr = options.segmenter.model_dump()
    changed = {k for k, v in plain.model_dump().items() if v != ocr[k]}
    assert changed == {"head", "gate", "rectify_weight"}


def test_settings_lie_over_the_segmenter_s_recipe_and_that_over_the_other():
    sets = ["segmenter.rho=0.5", "train.crop=64"]
    options = resolve_run(Path("cam"), sets, segmenter=Path("rectify-published"))
    assert (options.segmenter.rho, options.segmenter.form) == (0.5, "all")
    assert (options.train.crop, options.segmenter.head) == (64, "plain")
    assert resolve_run(None, ["segmenter.epochs=2"]).segmenter.epochs == 2
    assert resolve_run(None, []).segmenter is None


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["segmenter.encoder=tu-resnet18", "segmenter.weights=none"], "cannot start from the maps"),
        (["segmenter.epochs=1", "train.backbone=deit_tiny_patch16_224", "train.weights=none"],
         "say segmenter.start_from=weights"),
        (["starter.epochs=1"], "starter: is for a segmenter"),
        (["segmenter.rescale=[2, 1]"], "rescale: want"),
        (["segmenter.frm=all"], "unknown setting 'segmenter.frm'"),
    ],
)  # fmt: skip
def test_stages_that_do_not_fit_are_told_before_anything_is_trained(sets, said):
    with pytest.raises(SegmendError, match=re.escape(said)):
        resolve_run(None, sets)
