"""Crowded scans: repeatable, small targets, a cyst that looks like one, readable once written."""

from __future__ import annotations

import pytest
import torch

from segmend.data.crowded_scenes import STRUCTURES, make_crowded_scenes, write_crowded_scenes
from segmend.data.decathlon import read_decathlon
from segmend.data.folders import SegmentationFolder
from segmend.data.volumes import VolumeSet
from segmend.errors import SegmendError


@pytest.mark.parametrize("size", [(48, 40), (24, 20, 16)])
def test_scans_have_the_shape_asked_for_and_repeat(size):
    first = list(make_crowded_scenes(3, size=size, seed=1))
    again = list(make_crowded_scenes(2, size=size, seed=1))
    for scene in first:
        assert scene.image.shape == (1, *size)
        assert scene.image.dtype == torch.float32
        assert 0 <= scene.image.min() <= scene.image.max() <= 1
        assert scene.target.shape == scene.structures.shape == torch.Size(size)
        assert set(scene.target.unique().tolist()) <= {0, 1}
        assert int(scene.structures.max()) < len(STRUCTURES)
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=False))
    assert not torch.equal(first[0].image, next(make_crowded_scenes(1, size=size, seed=2)).image)


def test_targets_are_small_and_lie_in_the_organ():
    scenes = list(make_crowded_scenes(30, empty=0.0))
    target = torch.stack([s.target for s in scenes])
    under = torch.stack([s.structures for s in scenes])[target == 1]
    assert 0.003 < target.float().mean() < 0.03
    assert (under == STRUCTURES.index("organ")).float().mean() > 0.7


def test_cysts_are_as_bright_as_targets_and_other_structures_are_not():
    scenes = list(make_crowded_scenes(40, empty=0.0, likeness=1.0))
    image = torch.stack([s.image[0] for s in scenes])
    target = torch.stack([s.target for s in scenes]) == 1
    background = torch.stack([s.structures for s in scenes]).masked_fill(target, -1)
    level = float(image[target].mean())
    found = {n: float(image[background == i].mean()) for i, n in enumerate(STRUCTURES)}
    assert abs(found["cyst"] - level) < 0.03
    assert found["vessel"] > level + 0.2


def test_empty_scans_come_as_often_as_asked_for():
    assert all(int(s.target.sum()) == 0 for s in make_crowded_scenes(5, empty=1.0))


def test_written_scans_are_read_back(tmp_path):
    flat = write_crowded_scenes(tmp_path / "flat", counts=(2, 1, 1), size=(32, 32))
    items = SegmentationFolder(flat / "train" / "images", flat / "train" / "masks")
    scene = next(make_crowded_scenes(1, size=(32, 32)))
    assert torch.equal(items[0]["target"], scene.target)
    torch.testing.assert_close(items[0]["image"][:1], scene.image, atol=0.5 / 255, rtol=0)
    deep = write_crowded_scenes(tmp_path / "deep", counts=(2, 1, 1), size=(16, 16, 16))
    layout = read_decathlon(deep)
    names = ["scan_test_000", "scan_train_000", "scan_train_001", "scan_val_000"]
    assert [case.name for case in layout.training] == names
    scene = next(make_crowded_scenes(1, size=(16, 16, 16)))
    assert torch.equal(VolumeSet(layout.training)[1]["target"], scene.target)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (8, 96)}, "size"),
        ({"size": (96,)}, "size"),
        ({"likeness": 2.0}, "likeness"),
        ({"empty": -1.0}, "empty"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(SegmendError, match=words):
        make_crowded_scenes(1, **options)
