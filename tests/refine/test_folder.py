"""Refining a folder: images beside maps, many channels, and errors that name the file."""

import pytest
import torch

from segmend import Refiner, SegmendError
from segmend.data.images import write_image
from segmend.data.masks import read_mask
from segmend.data.probability_maps import read_probabilities, write_probabilities
from segmend.refine import BiasField, RefineOptions
from segmend.refine.folder import refine_folder


def refiner(channels=1, *, images=False):
    torch.manual_seed(0)
    network = BiasField(channels, image_channels=3 if images else 0, width=8)
    torch.nn.init.normal_(network.head.weight)
    options = RefineOptions(width=8, folds=0)
    return Refiner([network], options=options, channels=channels, with_images=images)


def test_many_channels_become_npz_and_label_masks(tmp_path):
    maps = torch.rand(3, 4, 20, 30).softmax(1)
    for index, map_ in enumerate(maps):
        write_probabilities(tmp_path / "in" / f"ü.{index}.npz", map_)
    used = refiner(4)
    result = refine_folder(used, tmp_path / "in", tmp_path / "out", write="both")
    assert (result.refined, result.skipped) == (3, 0)
    refined = used(read_probabilities(tmp_path / "in" / "ü.1.npz")[None])[0]
    found = read_probabilities(tmp_path / "out" / "probs" / "ü.1.npz")
    torch.testing.assert_close(found, refined, atol=2e-3, rtol=0)
    mask = read_mask(tmp_path / "out" / "masks" / "ü.1.png", num_classes=4)
    assert torch.equal(mask, refined.argmax(0))


def test_images_are_found_beside_the_maps_and_their_size_checked(tmp_path):
    write_probabilities(tmp_path / "in" / "a.png", torch.rand(1, 16, 16))
    write_image(tmp_path / "images" / "a.png", torch.rand(3, 16, 16))
    used = refiner(images=True)
    assert refine_folder(
        used, tmp_path / "in", tmp_path / "out", images=tmp_path / "images"
    ).refined == 1  # fmt: skip
    write_image(tmp_path / "images" / "a.png", torch.rand(3, 16, 17))
    with pytest.raises(SegmendError, match=r"a\.png is \(16, 17\) but .*a\.png is \(16, 16\)"):
        refine_folder(used, tmp_path / "in", tmp_path / "new", images=tmp_path / "images")


def test_map_with_other_channels_is_named_and_the_rest_is_kept(tmp_path):
    write_probabilities(tmp_path / "in" / "a.npy", torch.rand(1, 16, 16))
    write_probabilities(tmp_path / "in" / "b.npy", torch.rand(3, 16, 16).softmax(0))
    with pytest.raises(SegmendError, match=r"b\.npy: .* fitted to maps of 1 channel"):
        refine_folder(refiner(), tmp_path / "in", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]


def test_missing_images_are_named(tmp_path):
    write_probabilities(tmp_path / "in" / "a.npy", torch.rand(1, 16, 16))
    with pytest.raises(SegmendError, match=r"a\.npy: images: this refiner was fitted with images"):
        refine_folder(refiner(images=True), tmp_path / "in", tmp_path / "out")
