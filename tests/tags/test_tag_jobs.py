"""Training from tags: on two processes, and of two networks."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.tags.classifier_files import TAGGER
from segmend.tags.jobs import train_tags
from segmend.tags.options import TagOptions


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 5, size=(64, 64), num_classes=3, seed=0)
    return TagFolder(folder, with_masks=False)


def test_two_processes_leave_the_network_of_one(items, tmp_path):
    """Crops within the images: then all losses, and both add-ons, are means over images."""
    options = TagOptions(
        epochs=1, crop=64, batch_size=2, output_stride=16, optimizer="sgd", lr=1e-2, threads=1,
        accelerator="cpu", cache=False, fsl_weight=1, isl_weight=0.2, sampling="exact",
        precision="32-true",
    )  # fmt: skip
    weights, curves = [], []
    for devices in (1, 2):
        given = options.model_copy(update={"devices": devices})
        out = tmp_path / str(devices)
        result = train_tags(given, items, out, val=items, progress=False)
        weights.append(load_file(out / "model.safetensors"))
        curves.append([[row["train_loss"], row["val_loss"]] for row in result.curve])
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-6)
    assert curves[1] == [pytest.approx(row, rel=1e-3) for row in curves[0]]


def test_a_plain_network_beside_leaves_the_other_as_it_would_be_alone(items, tmp_path):
    plain = TagOptions(epochs=2, crop=64, output_stride=16, threads=1)
    added = {"isl_weight": 0.2, "isl_start": 0.5, "fsl_weight": 15, "fsl_start": 0.1}
    added |= {"fsl_form": "competitive", "fsl_trust": True, "num_samples": 9}
    options = plain.model_copy(update=added)
    weights = {}
    for name, changes in {
        "alone": {},
        "beside": {"tagger": True},
        "from it": {"tagger": True, "start_from_tagger": True},
    }.items():
        train_tags(options.model_copy(update=changes), items, tmp_path / name, progress=False)
        weights[name] = load_file(tmp_path / name / "model.safetensors")["head.weight"]
    assert torch.equal(weights["beside"], weights["alone"])
    assert not torch.equal(weights["from it"], weights["alone"])
    tagger = tmp_path / "beside" / TAGGER
    assert not torch.equal(load_file(tagger / "model.safetensors")["head.weight"], weights["alone"])
    record = json.loads((tagger / "train.json").read_text())
    assert record["options"] == plain.model_dump(mode="json")  # whatever was added


@pytest.mark.parametrize(("first", "background"), [(0, 0), (1, None)])
def test_auto_starts_from_the_plain_network_without_a_background_class(
    items, tmp_path, first, background
):
    """Class 0 of the scenes is their background."""
    given = TagFolder(items.root, classes=items.classes[first:], with_masks=False)
    assert given.background == background
    options = TagOptions(epochs=1, crop=64, output_stride=16, threads=1, tagger=True, fsl_weight=2)
    weights = {}
    for start in (False, True, "auto"):
        changed = options.model_copy(update={"start_from_tagger": start})
        train_tags(changed, given, tmp_path / str(start), progress=False)
        weights[start] = load_file(tmp_path / str(start) / "model.safetensors")["head.weight"]
    assert not torch.equal(weights[False], weights[True])
    assert torch.equal(weights["auto"], weights[background is None])


def test_a_start_from_the_plain_network_wants_one():
    with pytest.raises(ValueError, match="wants tagger"):
        TagOptions(start_from_tagger=True)
    assert not TagOptions(start_from_tagger="auto").tagger


@pytest.mark.parametrize(
    ("first", "weight", "form", "warns"),
    [
        (1, 15, "binomial", True),
        (1, 2, "binomial", False),
        (0, 15, "binomial", False),
        (1, 15, "competitive", False),
    ],
)
def test_a_weight_that_floods_maps_without_a_background_is_told(
    items, tmp_path, first, weight, form, warns
):
    """Class 0 of the scenes is their background."""
    given = TagFolder(items.root, classes=items.classes[first:], with_masks=False)
    options = TagOptions(
        epochs=1, crop=64, output_stride=16, threads=1, fsl_weight=weight, fsl_form=form
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train_tags(options, given, tmp_path, progress=False)
    assert warns == any("no background class" in str(each.message) for each in told)
