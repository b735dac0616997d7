"""Procedural scenes: what they promise about seeds, tags, classes and files."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmend.data.scenes import class_names, make_scenes, write_scenes
from segmend.data.shapes import SHAPES, shape_mask
from segmend.data.textures import TEXTURES, smooth_noise, texture
from segmend.data.voc import VOCFolder
from segmend.errors import SegmendError

SMALL = (24, 32)


@given(st.integers(2, 40), st.integers(0, 999), st.tuples(st.integers(16, 40), st.integers(16, 40)))
@settings(max_examples=15)
def test_ranges_and_tags(num_classes: int, seed: int, size: tuple[int, int]) -> None:
    for scene in make_scenes(2, size=size, num_classes=num_classes, seed=seed, noise=0.5):
        assert scene.image.shape == (3, *size)
        assert scene.image.dtype == torch.float32
        assert 0.0 <= float(scene.image.min()) <= float(scene.image.max()) <= 1.0
        assert scene.target.shape == size
        assert scene.target.dtype == torch.int64
        present = set(scene.target.unique().tolist()) - {0}
        assert scene.tags.shape == (num_classes - 1,)
        assert {c + 1 for c in scene.tags.nonzero().flatten().tolist()} == present


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first = list(make_scenes(3, size=SMALL, seed=7))
    (_, second, _), (_, again) = first, list(make_scenes(2, size=SMALL, seed=7))
    assert torch.equal(second.image, again.image)
    assert torch.equal(second.target, again.target)
    other = next(iter(make_scenes(1, size=SMALL, seed=8)))
    assert not torch.equal(first[0].image, other.image)
    assert not torch.equal(first[0].image, second.image)


def test_scenes_are_drawn_one_by_one() -> None:
    assert len(list(islice(make_scenes(10**9, size=SMALL), 2))) == 2


def test_partners_come_together_as_asked() -> None:
    def share(cooccurrence: float) -> float:
        scenes = make_scenes(100, size=(16, 16), num_classes=9, cooccurrence=cooccurrence, empty=0)
        tags = torch.stack([scene.tags for scene in scenes]).reshape(100, 4, 2)
        some, both = tags.amax(-1).sum(), tags.amin(-1).sum()
        return float(both / some)

    assert share(0.0) < 0.15  # only where both were drawn by themselves
    assert share(0.9) > 0.6  # less than 0.9: one may hide the other


def test_share_of_empty_scenes() -> None:
    assert not any(scene.tags.any() for scene in make_scenes(20, size=SMALL, empty=1.0))
    assert all(scene.tags.any() for scene in make_scenes(40, size=SMALL, empty=0.0))


def test_distractors_change_the_image_but_never_the_target() -> None:
    plain = make_scenes(5, size=SMALL, empty=1.0, noise=0.0, distractors=0)
    hard = make_scenes(5, size=SMALL, empty=1.0, noise=0.0, distractors=3)
    for one, other in zip(plain, hard, strict=True):
        assert not torch.equal(one.image, other.image)
        assert not other.target.any()


def test_class_names_differ_and_cover_all_shapes_and_textures() -> None:
    names = class_names(33)
    assert len(set(names)) == 33
    assert {name.split()[1] for name in names[1:]} == set(SHAPES)
    assert {name.split()[0] for name in names[1:]} == set(TEXTURES)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_lie_in_their_circle_and_turn(name: str) -> None:
    def draw(angle: float) -> np.ndarray:
        return shape_mask(name, size=(81, 81), centre=(40.0, 40.0), radius=30.0, angle=angle)

    mask = draw(0.3)
    rows, columns = np.nonzero(mask)
    assert len(rows) > 300
    assert np.hypot(rows - 40, columns - 40).max() <= 30.5
    quarter = draw(0.3 + np.pi / 2)
    assert (np.rot90(quarter) != mask).mean() < 0.01 or (
        np.rot90(quarter, -1) != mask
    ).mean() < 0.01


def test_disc_by_definition() -> None:
    mask = shape_mask("disc", size=(9, 12), centre=(4.0, 5.0), radius=3.2, angle=1.0)
    for row, column in np.ndindex(9, 12):
        assert mask[row, column] == ((row - 4) ** 2 + (column - 5) ** 2 <= 3.2**2)


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_fill_the_unit_range(name: str) -> None:
    grey = texture(name, size=(40, 50), rng=np.random.default_rng(3))
    assert grey.shape == (40, 50)
    assert grey.dtype == np.float32
    assert 0.0 <= grey.min() < 0.2
    assert 0.8 < grey.max() <= 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (30, 7)])
def test_noise_of_any_size(size: tuple[int, int]) -> None:
    grey = smooth_noise(size=size, cell=3.0, rng=np.random.default_rng(0))
    assert grey.shape == size
    assert 0.0 <= grey.min() <= grey.max() <= 1.0


def test_written_scenes_read_back(tmp_path: Path) -> None:
    out = write_scenes(tmp_path / "scenes", 10, size=SMALL, num_classes=4, seed=3)
    scenes = list(make_scenes(10, size=SMALL, num_classes=4, seed=3))
    names = json.loads((out / "tags.json").read_text())
    seen = []
    for split, length in [("train", 6), ("val", 2), ("test", 2)]:
        data = VOCFolder(out, split)
        assert len(data) == length
        assert list(data.classes) == class_names(4)
        for index, item in enumerate(data):
            scene = scenes[int(item["name"].split("_")[1])]
            assert torch.equal(item["target"], scene.target)
            assert torch.equal(data.tags(index), scene.tags)
            torch.testing.assert_close(item["image"], scene.image, atol=0.5 / 255 + 1e-6, rtol=0.0)
            tags = [data.classes[c + 1] for c in scene.tags.nonzero().flatten().tolist()]
            assert names[item["name"]] == tags
            seen.append(item["name"])
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": 1}, r"num_classes: want 2 \.\. 255, background included, got 1"),
        ({"size": (15, 40)}, r"size: want \(H, W\) of 16 pixels or more each, got \(15, 40\)"),
        ({"cooccurrence": 1.5}, r"want probabilities in \[0, 1\], got 1\.5"),
        ({"empty": -0.1}, r"got 0\.6, -0\.1"),
        ({"noise": -1.0}, r"want 0 or more, got 3, -1\.0, 0"),
        ({"seed": -1}, "want 0 or more, got 3, 0.03, -1"),
        ({"distractors": -1}, "want 0 or more, got -1"),
    ],
)
def test_options_are_checked_at_once(tmp_path: Path, options: dict, text: str) -> None:
    with pytest.raises(SegmendError, match=text):
        make_scenes(1, **options)
    with pytest.raises(SegmendError, match=text):
        write_scenes(tmp_path / "out", 1, **options)
    assert not (tmp_path / "out").exists()


def test_count_and_splits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match="count: want 0 or more, got -1"):
        make_scenes(-1)
    with pytest.raises(SegmendError, match="splits: want shares of 0 or more that sum to at most"):
        write_scenes(tmp_path, 1, splits={"train": 0.9, "val": 0.2})
