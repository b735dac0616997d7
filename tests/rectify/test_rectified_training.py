"""Training with tags end to end on tiny scenes: resume, averages, start from maps, files."""

import json

import pytest
import torch

from segmend.data.probability_maps import read_probabilities
from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.errors import SegmendError
from segmend.rectify.evaluation import evaluate_rectified
from segmend.rectify.files import load_rectified, start_from_classifier
from segmend.rectify.inference import ImageReading, masked_reading, read_image_probabilities
from segmend.rectify.jobs import predict_rectified, train_rectified, train_rectified_folder
from segmend.rectify.network import RectifiedSpec, build_rectified
from segmend.rectify.options import RectifyOptions, RectifyPredictOptions
from segmend.rectify.task import RectifyTask

SMALL = {"epochs": 2, "crop": 48, "batch_size": 4, "threads": 1}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(
        tmp_path_factory.mktemp("scenes"), 8, size=(48, 56), num_classes=4,
        splits={"train": 0.5, "val": 0.5},
    )  # fmt: skip


def options(**changes):
    return RectifyOptions(**{**SMALL, **changes})


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    result = train_rectified_folder(
        options(start=0.0, ema=0.5), scenes, out, split="train", val_split="val", progress=False
    )
    return out, result


def test_a_run_writes_what_loads_again(run, scenes):
    out, result = run
    assert [row["epoch"] for row in result.curve] == [1, 2]
    assert all(0 <= row["val_iou"] <= 1 for row in result.curve)
    loaded = load_rectified(out)
    assert loaded.classes == TagFolder(scenes, split="train").classes
    assert loaded.model.spec.head == "hierarchical"
    described = json.loads((out / "rectified.json").read_text())
    assert described["network"]["gate_strength"] == 1.0
    image = torch.rand(1, 3, 50, 45)
    assert loaded.model(image).shape == (1, 4, 50, 45)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_an_interrupted_run_arrives_at_the_same_weights(scenes, tmp_path, ema):
    items = TagFolder(scenes, split="train")
    settings = options(ema=ema, start=0.3, warm_up=0.3, adaptive=True)
    straight = train_rectified(settings, items, tmp_path / "a", progress=False)

    class Stop(Exception):
        pass

    class Breaking(TagFolder):
        reads = 0

        def __getitem__(self, index):
            Breaking.reads += 1
            if Breaking.reads > 6:
                raise Stop
            return super().__getitem__(index)

    uncached = settings.model_copy(update={"cache": False})
    with pytest.raises(Stop):
        train_rectified(uncached, Breaking(scenes, split="train"), tmp_path / "b", progress=False)
    assert len(json.loads((tmp_path / "b" / "curve.json").read_text())) == 1
    resumed = train_rectified(uncached, items, tmp_path / "b", progress=False)
    one, two = (load_rectified(r.checkpoint).model.state_dict() for r in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_averaged_weights_are_the_mean_that_their_decay_says(scenes, tmp_path):
    """One step: the start and the step's end, blended."""
    items = TagFolder(scenes, split="train")
    settings = options(epochs=1, ema=0.9)
    plain = train_rectified(settings.model_copy(update={"ema": 0.0}), items, tmp_path / "a",
                            progress=False)  # fmt: skip
    mean = train_rectified(settings, items, tmp_path / "b", progress=False)
    torch.manual_seed(0)
    from segmend.engine.seeds import seed_everything

    seed_everything(0)
    start = build_rectified(RectifiedSpec("deeplabv1", "squeezenet1_0", 4, 0)).state_dict()
    ends, means = (load_rectified(r.checkpoint).model.state_dict() for r in (plain, mean))
    decay = min(0.9, (1 + 1) / (10 + 1))
    name = "head.weight"
    torch.testing.assert_close(means[name], decay * start[name] + (1 - decay) * ends[name])


def test_pseudo_masks_with_unsure_pixels_and_a_share_for_validation(scenes, tmp_path):
    items = TagFolder(scenes, split="train", masks=scenes / "SegmentationClass")
    result = train_rectified(
        options(epochs=1, head="plain", gate=False, form="all", adaptive=True, start=0.0),
        items, tmp_path, val_fraction=0.25, progress=False,
    )  # fmt: skip
    assert "val_iou" in result.best


def test_start_from_a_tag_classifier_gives_its_maps(scenes, tmp_path):
    from segmend.tags.classifier_files import load_classifier
    from segmend.tags.jobs import train_tags
    from segmend.tags.options import TagOptions

    items = TagFolder(scenes, split="train")
    train_tags(TagOptions(epochs=1, crop=48, threads=1), items, tmp_path, progress=False)
    classifier = load_classifier(tmp_path).model
    images = torch.rand(2, 3, 48, 56)
    for head in ("plain", "hierarchical"):
        spec = RectifiedSpec("deeplabv1", "squeezenet1_0", 4, 0, head, False)
        model = build_rectified(spec, weights="none").eval()
        start_from_classifier(model, tmp_path, classes=items.classes)
        with torch.inference_mode():
            maps = torch.nn.functional.interpolate(
                classifier(images), size=(48, 56), mode="bilinear"
            )
            found = model.read(images)
        scores = found.logits[:, 1:] if head == "plain" else found.classes
        torch.testing.assert_close(scores, maps, rtol=1e-4, atol=1e-5)
        if head == "plain":
            assert not found.logits[:, 0].any()
    gated = build_rectified(RectifiedSpec("deeplabv1", "squeezenet1_0", 4, 0), weights="none")
    start_from_classifier(gated, tmp_path, classes=items.classes)
    with torch.inference_mode():
        torch.testing.assert_close(
            gated.eval().read(images).tags, classifier.read(images).scores, rtol=1e-4, atol=1e-5
        )
    with pytest.raises(SegmendError, match="trained on classes"):
        start_from_classifier(gated, tmp_path, classes=("background", "x"))
    with pytest.raises(SegmendError, match="cannot be read"):
        start_from_classifier(gated, tmp_path / "nowhere", classes=items.classes)
    other = build_rectified(
        RectifiedSpec("deeplabv3plus", "tu-mobilenetv3_small_050", 4, 0), weights="none"
    )
    with pytest.raises(SegmendError, match="wants architecture deeplabv1"):
        start_from_classifier(other, tmp_path, classes=items.classes)


def test_predictions_are_files_and_can_be_masked(run, scenes, tmp_path):
    out, _ = run
    items = TagFolder(scenes, split="val", with_masks=False)
    paths = predict_rectified(RectifyPredictOptions(), out, items, tmp_path / "a", progress=False)
    probs = read_probabilities(paths[0])
    assert probs.shape == (4, 48, 56)
    torch.testing.assert_close(probs.sum(0), torch.ones(48, 56), rtol=0, atol=0.01)
    masking = RectifyPredictOptions(masking="all", scales=(0.5, 1.0))
    tags = items.tag_table()
    paths = predict_rectified(masking, out, items, tmp_path / "b", tags=tags, progress=False)
    for path, row in zip(paths, tags, strict=True):
        missing = read_probabilities(path)[1:][row == 0]
        assert not missing.any()
    labels = predict_rectified(masking, out, items, tmp_path / "c", masks=True, progress=False)
    assert all(path.suffix == ".png" and path.exists() for path in labels)
    with pytest.raises(SegmendError, match="tags: want 4 rows"):
        predict_rectified(masking, out, items, tmp_path / "d", tags=tags[:1], progress=False)


def test_mirror_images_are_turned_back(run):
    model = load_rectified(run[0]).model
    image = torch.rand(3, 48, 64)
    settings = RectifyPredictOptions(scales=(1.0,))
    one = read_image_probabilities(model, image, settings)
    two = read_image_probabilities(model, image.flip(-1), settings)
    torch.testing.assert_close(one.probs, two.probs.flip(-1), rtol=1e-4, atol=1e-5)


def test_masking_without_tags_wants_a_gate():
    reading = ImageReading(torch.full((3, 2, 2), 1 / 3), None)
    with pytest.raises(SegmendError, match="has no gate"):
        masked_reading(reading, RectifyPredictOptions(masking="keep"), background=0)


def test_scores_say_what_a_rate_hides(run, scenes):
    model = load_rectified(run[0]).model
    items = TagFolder(scenes, split="val")
    found = evaluate_rectified(model, items, progress=False)
    assert found.true_tag_iou >= 0
    truth = torch.cat([items.target(i).flatten() for i in range(len(items))])
    assert abs(found.true_background - float((truth == 0).double().mean())) < 1e-9
    assert set(found.summary()) >= {"mean_iou", "background_share", "true_tag_iou"}
    bias = model.head.bias.data
    bias[0] += 1e3  # a segmenter that flees into the background
    fled = evaluate_rectified(model, items, progress=False)
    assert fled.background_share == 1
    assert fled.out_of_candidate == 0


def test_errors_say_what_to_do(scenes, tmp_path):
    with pytest.raises(SegmendError, match="has no masks"):
        train_rectified(
            options(), TagFolder(scenes, split="train", with_masks=False), tmp_path, progress=False
        )
    with pytest.raises(SegmendError, match="say head=plain"):
        build_rectified(RectifiedSpec("deeplabv1", "squeezenet1_0", 4, None, "hierarchical"))
    with pytest.raises(SegmendError, match="other architectures are smp's"):
        build_rectified(RectifiedSpec("deeplabv3plus", "squeezenet1_0", 4, 0))
    with pytest.raises(SegmendError, match="want the folder that training"):
        load_rectified(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="want ce"):
        options(loss="bce")


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("deeplabv2", "tu-resnet18"), ("deeplabv3plus", "tu-mobilenetv3_small_050")],
)
def test_other_networks_have_the_same_parts(architecture, encoder):
    model = build_rectified(RectifiedSpec(architecture, encoder, 4, 0), weights="none").eval()
    with torch.inference_mode():
        found = model.read(torch.rand(1, 3, 70, 50))
    assert found.logits.shape == (1, 4, 70, 50)
    assert found.classes.shape == (1, 3, 70, 50)
    assert found.tags.shape == (1, 3)
    torch.testing.assert_close(found.logits.exp().sum(1), torch.ones(1, 70, 50))


@pytest.mark.parametrize("head", ["plain", "hierarchical"])
def test_a_grid_of_every_pixel_is_the_reading_and_one_of_every_cell_the_cells(head):
    model = build_rectified(RectifiedSpec("deeplabv1", "squeezenet1_0", 4, 0, head)).eval()
    padding = torch.zeros(2, 41, 50, dtype=torch.bool)
    padding[:, 30:] = True
    with torch.no_grad():
        model.head.weight.normal_()
        reading = model.read(torch.rand(2, 3, 41, 50), ~padding)
        every, outside = model.on_grid(reading, 1, padding)
        cells, behind = model.on_grid(reading, 8, padding)
    assert reading.covered == (48, 56) == tuple(every.logits.shape[2:])
    assert torch.equal(every.cut(41, 50).logits, reading.logits)
    assert torch.equal(outside[:, :41, :50], padding)
    assert outside[:, 41:].all()
    assert outside[..., 50:].all()
    assert torch.equal(cells.cells, reading.cells)
    assert cells.tags is reading.tags
    told = cells.logits if head == "plain" else cells.classes
    torch.testing.assert_close(told, reading.cells[:, 4 - told.shape[1] :])
    # A cell's middle, pixel 3.5, 11.5, ..., is in the image or it is not.
    assert not behind[:, :3, :6].any()
    assert behind[:, 4:].all()
    assert behind[..., 6:].all()


def test_a_run_that_ranks_on_a_grid_pulls_where_one_at_every_pixel_does(scenes):
    """The two means are of the same smooth map, so that their gradients point the same way."""
    model = build_rectified(RectifiedSpec("deeplabv1", "squeezenet1_0", 4, 0)).train()
    items = TagFolder(scenes, split="train")
    batch = torch.utils.data.default_collate([items[i] for i in range(len(items))])
    found = []
    for stride in (1, 4):
        torch.manual_seed(0)
        task = RectifyTask(model, options(average="every", rectify_stride=stride, gate=False))
        reading = model.read(batch["image"])
        padding = torch.zeros_like(batch["target"], dtype=torch.bool)
        loss = task._tag_losses(reading._replace(tags=None), batch["tags"], padding)
        (slope,) = torch.autograd.grad(loss, model.head.weight)
        found.append((loss.detach(), slope.flatten()))
    (whole, along), (grid, close) = found
    torch.testing.assert_close(grid, whole, rtol=0.05, atol=0)
    assert torch.cosine_similarity(along, close, dim=0) > 0.99


def test_published_backbone_and_a_file_of_its_weights(tmp_path):
    with torch.device("meta"):  # 100 million weights are not needed to see that the parts fit
        model = build_rectified(RectifiedSpec("deeplabv1", "resnet38", 4, 0), weights="none")
        assert model.read(torch.rand(1, 3, 64, 64)).logits.shape == (1, 4, 64, 64)
    assert model.trunk.top_channels == 4096
    spec = RectifiedSpec("deeplabv1", "tu-resnet18", 4, 0)
    saved = build_rectified(spec, weights="none").trunk.backbone.state_dict()
    names = {k.removeprefix("model."): v for k, v in saved.items()}
    torch.save(names, tmp_path / "timm.pth")
    loaded = build_rectified(spec, weights=str(tmp_path / "timm.pth")).trunk.backbone.state_dict()
    for name, tensor in saved.items():
        assert torch.equal(loaded[name], tensor)
    with pytest.raises(SegmendError, match="other architectures are smp's"):
        build_rectified(RectifiedSpec("unet", "resnet38", 4, 0), weights="none")
    with pytest.raises(SegmendError, match=r"files of weights are for deeplabv1"):
        build_rectified(RectifiedSpec("unet", "resnet18", 4, 0), weights=str(tmp_path / "timm.pth"))


def test_a_doubt_of_the_gate_rules_no_class_out():
    probs = torch.tensor([0.1, 0.6, 0.3]).view(3, 1, 1)
    reading = ImageReading(probs, torch.tensor([0.05, 0.4]))
    told = torch.tensor([0.05, 0.4])

    def label(tags=None, **how):
        options = RectifyPredictOptions(**{"masking": "keep"} | how)
        return int(masked_reading(reading, options, background=0, tags=tags)[1])

    assert label() == 1  # the gate's 0.05 is enough
    assert label(tags=told) == 2  # a classifier's is not
    assert label(tag_threshold=0.1) == 2
    assert label(tag_threshold=0.01, tags=told) == 1
    assert label(tag_threshold=0.1, masking="auto") == 2  # the gate is there, so it masks
    assert label(tag_threshold=0.1, masking="none") == 1
    reading = ImageReading(probs, None)
    assert label(tag_threshold=0.1, masking="auto") == 1
