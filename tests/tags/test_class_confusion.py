"""A network of maps that never learned its classes is told of; one that did is not."""

import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from segmend.data.scenes import write_scenes
from segmend.data.tags import TagFolder
from segmend.errors import SegmendWarning
from segmend.tags.class_confusion import ENOUGH_IMAGES, warn_of_confused_classes
from segmend.tags.classifier_files import TAGGER
from segmend.tags.jobs import draw_cams, train_tags
from segmend.tags.options import CamOptions, TagOptions

TAGS = (torch.rand(80, 10, generator=torch.Generator().manual_seed(0)) < 0.25).long()


def scores(*, noise: float, seed: int = 1) -> torch.Tensor:
    chance = torch.randn(TAGS.shape, generator=torch.Generator().manual_seed(seed))
    return TAGS + noise * chance


def test_a_network_that_guesses_is_told_of():
    with pytest.warns(SegmendWarning, match=r"precision of \d\d, .* of 100, .* 2\.\d tags.*trust"):
        assert warn_of_confused_classes(scores(noise=100), scores(noise=0.01), TAGS)


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_one_that_tells_classes_is_not(noise):
    assert not warn_of_confused_classes(scores(noise=noise), scores(noise=0.01), TAGS)


def test_nor_one_that_is_as_bad_as_the_plain_one():
    guesses = scores(noise=100, seed=2)
    assert not warn_of_confused_classes(scores(noise=100), guesses, TAGS)


def test_nor_where_images_have_one_tag_or_are_few():
    one = torch.eye(10).repeat(8, 1).long()
    wrong, right = one.roll(1, 1).float(), one.float()
    assert not warn_of_confused_classes(wrong, right, one)
    few = slice(ENOUGH_IMAGES - 1)
    bad, good = scores(noise=100)[few], scores(noise=0.01)[few]
    assert not warn_of_confused_classes(bad, good, TAGS[few])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("confusion")
    write_scenes(folder / "data", ENOUGH_IMAGES, size=(64, 64), num_classes=7, seed=0)
    items = TagFolder(folder / "data", with_masks=False)
    train_tags(TagOptions(epochs=16, crop=64, threads=1), items, folder / "net", progress=False)
    return items, folder / "net"


@pytest.mark.parametrize("spoilt", [True, False])
def test_maps_of_a_spoilt_network_are_drawn_with_a_warning(trained, tmp_path, spoilt):
    items, net = trained
    run = shutil.copytree(net, tmp_path / "net")
    shutil.copytree(net, run / TAGGER)
    if spoilt:  # what says yes says no
        weights = load_file(run / "model.safetensors")
        weights["head.weight"] = -weights["head.weight"]
        save_file(weights, run / "model.safetensors")
    drawing = CamOptions(scales=(1.0,), flip=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        paths = draw_cams(drawing, run, items, tmp_path / "cams", progress=False)
    assert len(paths) == ENOUGH_IMAGES
    assert spoilt == any(isinstance(each.message, SegmendWarning) for each in told)
