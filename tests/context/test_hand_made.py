"""Context labels from a folder: read on the set's grid, checked where they count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segmend.context.hand_made import HandMade
from segmend.context.jobs import load_context, read_sets, run_context, train_context
from segmend.context.options import ContextOptions
from segmend.data.crowded_scenes import STRUCTURES, make_crowded_scenes, write_crowded_scenes
from segmend.data.folders import SegmentationFolder
from segmend.data.masks import write_mask
from segmend.data.nifti import write_volume
from segmend.errors import SegmendError

TINY = {"epochs": 1, "batch_size": 2, "crop": 16, "patch": (16, 16, 16), "widths": (4, 6),
        "threads": 1, "method": "maps", "num_context": len(STRUCTURES)}  # fmt: skip


def write_labels(folder, structures, *, suffix=".png", move=0.0):
    """One file a scan, named as `write_crowded_scenes` names them."""
    for index, labels in enumerate(structures):
        if suffix == ".png":
            write_mask(folder / f"scan_{index:05d}.png", labels, encoding="index")
            continue
        affine = torch.eye(4, dtype=torch.float64)
        affine[0, 3] = move
        write_volume(folder / f"scan_train_{index:03d}.nii.gz", labels, affine)
    return folder


@pytest.fixture
def flat(tmp_path):
    """(items of four scans, their structures)"""
    root = write_crowded_scenes(tmp_path / "data", counts=(4, 1, 1), size=(24, 24))
    scenes = make_crowded_scenes(4, size=(24, 24), seed=0)
    items = SegmentationFolder(root / "train/images", root / "train/masks")
    return items, [scene.structures for scene in scenes]


def test_labels_are_those_of_the_image_of_the_same_name(flat, tmp_path):
    items, structures = flat
    folder = write_labels(tmp_path / "labels", [*structures, structures[0]])  # one too many
    found = HandMade(items, folder, num_context=5)
    assert len(found) == len(items)
    for item, plain, expected in zip(found, items, structures, strict=True):
        assert torch.equal(item["context"], expected)
        assert torch.equal(item["image"], plain["image"])


def test_an_image_without_labels_is_named(flat, tmp_path):
    items, structures = flat
    folder = write_labels(tmp_path / "labels", structures[:2])
    with pytest.raises(SegmendError, match=r"no file for 2 of 4 images: scan_00002, scan_00003"):
        HandMade(items, folder, num_context=5)


def test_labels_count_on_the_background_alone(flat, tmp_path):
    items, structures = flat
    target = items[0]["target"]
    assert bool((target == 1).any())
    structures[0] = structures[0].masked_fill(target == 1, 77)
    folder = write_labels(tmp_path / "labels", structures)
    assert int(HandMade(items, folder, num_context=5)[0]["context"].max()) == 77
    highest = int(structures[1][items[1]["target"] == 0].max())
    with pytest.raises(SegmendError, match=rf"scan_00001\.png: label {highest}.*want 0 to"):
        HandMade(items, folder, num_context=highest)[1]


def test_labels_of_another_size_are_named(flat, tmp_path):
    items, structures = flat
    folder = write_labels(tmp_path / "labels", [s[:20] for s in structures])
    with pytest.raises(SegmendError, match=r"scan_00000\.png is 20x24 .*scan_00000 is 24x24"):
        HandMade(items, folder, num_context=5)[0]


@pytest.fixture
def deep(tmp_path):
    root = write_crowded_scenes(tmp_path / "data", counts=(2, 1, 0), size=(16, 16, 18))
    scenes = [s.structures for s in make_crowded_scenes(2, size=(16, 16, 18), seed=0)]
    return root, scenes


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.5)])
def test_volumes_are_brought_to_the_items_grid(deep, tmp_path, spacing):
    root, structures = deep
    folder = write_labels(tmp_path / "labels", structures, suffix=".nii.gz")
    options = ContextOptions(**TINY, splits=(2, 1, 0), spacing=spacing)
    sets = read_sets(options, root, None, context_maps=folder)
    assert sets.val is not None
    assert "context" not in sets.val[0]
    for item, labels in zip(sets.train, structures, strict=True):
        size = tuple(item["target"].shape)
        small = F.interpolate(labels[None, None].double(), size=size, mode="nearest-exact")
        assert torch.equal(item["context"], small[0, 0].long())
        assert (size == (16, 16, 18)) == (spacing is None)


def test_volumes_in_another_place_are_named(deep, tmp_path):
    root, structures = deep
    folder = write_labels(tmp_path / "labels", structures, suffix=".nii.gz", move=3.0)
    options = ContextOptions(**TINY, splits=(2, 1, 0))
    sets = read_sets(options, root, None, context_maps=folder)
    with pytest.raises(SegmendError, match=r"scan_train_000.*lie in different places"):
        sets.train[0]


def test_a_run_learns_what_the_folder_holds(flat, tmp_path):
    items, structures = flat
    labels = write_labels(tmp_path / "labels", structures)
    root = tmp_path / "data/train"
    options = ContextOptions(**TINY, val_fraction=0.0)
    run_context(
        options, root / "images", root / "masks", tmp_path / "run", context_maps=labels,
        progress=False,
    )  # fmt: skip
    by_hand = [{**item, "context": s} for item, s in zip(items, structures, strict=True)]
    train_context(by_hand, None, options=options, out=tmp_path / "own", progress=False)
    blank = [{**item, "context": torch.zeros_like(item["target"])} for item in items]
    train_context(blank, None, options=options, out=tmp_path / "blank", progress=False)
    run, own, other = (
        load_context(tmp_path / name).network.state_dict() for name in ("run", "own", "blank")
    )
    assert all(torch.equal(run[key], own[key]) for key in run)
    assert not all(torch.equal(run[key], other[key]) for key in run)


@pytest.mark.parametrize(
    ("method", "given", "told"),
    [("maps", False, "wants --context-maps"), ("kmeans", True, "are for method maps, got kmeans")],
)
def test_method_and_folder_go_together(flat, tmp_path, method, given, told):
    _, structures = flat
    labels = write_labels(tmp_path / "labels", structures) if given else None
    options = ContextOptions(**{**TINY, "method": method})
    root = tmp_path / "data/train"
    with pytest.raises(SegmendError, match=told):
        run_context(
            options, root / "images", root / "masks", tmp_path / "run", context_maps=labels,
            progress=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_pictures_of_labels_are_indices_whatever_the_values(flat, tmp_path):
    """Two labels, 0 and 1, in a grey file are no black and white mask."""
    items, structures = flat
    folder = write_labels(tmp_path / "labels", [(s > 0).long() for s in structures])
    values = {int(v) for item in HandMade(items, folder, num_context=2) for v in
              np.unique(item["context"].numpy())}  # fmt: skip
    assert values <= {0, 1}
