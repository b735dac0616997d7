"""Training with contexts end to end on tiny scans: all methods, resuming, predicting, bad input."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch

from segmend.context.jobs import (
    is_context_run,
    load_context,
    run_context,
    train_context,
)
from segmend.context.merging import merge_background
from segmend.context.options import ContextOptions
from segmend.context.prediction import predict_context
from segmend.data.crowded_scenes import STRUCTURES, make_crowded_scenes, write_crowded_scenes
from segmend.data.probability_maps import read_probabilities
from segmend.errors import SegmendError

FLAT, DEEP = (20, 24), (16, 16, 16)
TINY = {"epochs": 1, "batch_size": 2, "crop": 16, "patch": (16, 16, 16), "widths": (4, 6),
        "update_every": 1, "threads": 1, "ring": 3.0}  # fmt: skip


def scans(count, size, seed=0):
    return [
        {
            "name": f"s{i}",
            "image": s.image.expand(3, -1, -1) if len(size) == 2 else s.image,
            "target": s.target,
            "context": s.structures,
        }
        for i, s in enumerate(make_crowded_scenes(count, size=size, seed=seed))
    ]


def train(out, size=FLAT, count=4, **changes):
    options = ContextOptions(**{**TINY, **changes})
    return train_context(
        scans(count, size), scans(2, size, seed=1), options=options, out=out, progress=False
    )


def weights(out):
    return load_context(out).network.state_dict()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize("size", [FLAT, DEEP])
@pytest.mark.parametrize(
    ("method", "num_context"),
    [("plain", 1), ("learned", 3), ("kmeans", 2), ("dilate", 2), ("bands", 3), ("random", 2),
     ("maps", len(STRUCTURES))],
)  # fmt: skip
def test_every_method_trains_and_leaves_an_ordinary_network(tmp_path, size, method, num_context):
    result = train(tmp_path, size, method=method, num_context=num_context, tau=5.0)
    assert result.checkpoint == tmp_path
    assert is_context_run(tmp_path)
    assert np.isfinite(result.curve[-1]["val_loss"])
    run = load_context(tmp_path)
    image = scans(1, size, seed=2)[0]["image"][None]
    with torch.no_grad():
        raw, merged = run.network(image), run.merged(image)
    assert raw.shape[1] == num_context + 1
    pair = merge_background(raw, num_context=num_context, num_classes=2)
    expected = pair[:, 1:] - pair[:, :1] if size is FLAT else pair
    torch.testing.assert_close(merged, expected)
    assert (run.generator is not None) == (method == "learned")


@pytest.mark.parametrize("changes", [
    {"method": "learned", "averaging": 0.5, "meta_batch": "next", "warm_up": 3},
    {"method": "random"},
])  # fmt: skip
def test_a_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, changes
):
    from segmend.engine.task import Keeper

    settings = {**changes, "epochs": 3, "tau": 4.0}
    train(tmp_path / "whole", **settings)
    kept = Keeper.on_train_batch_end
    steps = []

    def die(self, *args):
        steps.append(1)
        if len(steps) == 3:  # in the middle of the second epoch
            raise RuntimeError("killed")
        kept(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", die)
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path / "resumed", **settings)
    result = train(tmp_path / "resumed", **settings)
    assert [row["epoch"] for row in result.curve] == [1, 2, 3]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    generators = [load_context(tmp_path / n).generator for n in ("whole", "resumed")]
    if changes["method"] == "learned":
        assert same(*(g.state_dict() for g in generators))


def test_one_context_is_plain_training(tmp_path):
    train(tmp_path / "plain", method="plain", num_context=1)
    train(tmp_path / "learned", method="learned", num_context=1)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "learned"))


def test_a_patch_larger_than_the_volume_and_scans_without_a_target(tmp_path):
    rows = scans(2, (16, 12 + 4, 16))
    rows[1]["target"] = torch.zeros_like(rows[1]["target"])
    options = ContextOptions(**{**TINY, "patch": (24, 16, 20), "tau": 5.0})
    result = train_context(rows, rows, options=options, out=tmp_path, progress=False)
    assert np.isfinite(result.curve[-1]["train_loss"])


def test_all_scans_empty_still_trains_to_finite_weights(tmp_path):
    rows = scans(2, FLAT)
    for row in rows:
        row["target"] = torch.zeros_like(row["target"])
    train_context(rows, None, options=ContextOptions(**TINY), out=tmp_path, progress=False)
    assert all(w.isfinite().all() for w in weights(tmp_path).values())


def test_another_run_in_the_folder_is_left_as_it_is(tmp_path):
    train(tmp_path)
    before = (tmp_path / "context.json").read_text()
    with pytest.raises(SegmendError, match="num_context was 2, now 3"):
        train(tmp_path, num_context=3)
    assert (tmp_path / "context.json").read_text() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": torch.full(FLAT, 3)}, "s0: label 3"),
        ({"target": torch.zeros(4, 4, dtype=torch.int64)}, "s0: want image"),
        ({"image": torch.zeros(3, 4)}, "s0: want image"),
    ],
)
def test_a_bad_item_is_named(tmp_path, change, words):
    rows = scans(2, FLAT)
    rows[0].update(change)
    with pytest.raises(SegmendError, match=words):
        train_context(rows, None, options=ContextOptions(**TINY), out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "kmeans", "num_context": 1}, "wants 2 or more"),
        ({"method": "plain", "num_context": 2}, "plain has 1"),
        ({"patch": (4, 16, 16)}, "sides of 8 or more"),
        ({"target": (1,), "num_classes": 3}, "2 classes"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        ContextOptions(**options)


def test_pictures_from_folders_to_probability_maps(tmp_path):
    root = write_crowded_scenes(tmp_path / "data", counts=(4, 1, 1), size=FLAT)
    options = ContextOptions(**TINY)
    result = run_context(options, root / "train/images", root / "train/masks", tmp_path / "run",
                         progress=False)  # fmt: skip
    assert "val_iou" in result.curve[-1]  # a share was held out
    paths = predict_context(result.checkpoint, root / "test/images", tmp_path / "maps",
                            progress=False)  # fmt: skip
    assert [p.name for p in paths] == ["scan_00000.png"]
    assert read_probabilities(paths[0]).shape == (1, *FLAT)


def test_a_described_set_of_volumes_from_training_to_label_volumes(tmp_path):
    root = write_crowded_scenes(tmp_path / "data", counts=(3, 1, 1), size=DEEP)
    options = ContextOptions(**TINY, splits=(1, 1, 3))
    run_context(options, root, None, tmp_path / "run", progress=False)
    paths = predict_context(tmp_path / "run", root / "imagesTr", tmp_path / "out", progress=False)
    assert len(paths) == 5
    source = nibabel.load(root / "imagesTr" / paths[0].name)
    written = nibabel.load(paths[0])
    assert written.shape == source.shape
    np.testing.assert_array_equal(written.affine, source.affine)
    with pytest.raises(SegmendError, match="more than the 5 cases"):
        run_context(ContextOptions(**TINY, splits=(9, 9, 9)), root, None, tmp_path / "x")


def test_labels_that_nobody_chose_are_refused(tmp_path):
    root = write_crowded_scenes(tmp_path / "data", counts=(2, 1, 0), size=DEEP)
    path = root / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"]["2"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(SegmendError, match="which are the target"):
        run_context(ContextOptions(**TINY), root, None, tmp_path / "run", progress=False)


def test_folders_that_do_not_go_together(tmp_path):
    with pytest.raises(SegmendError, match="both folders or neither"):
        run_context(ContextOptions(**TINY), tmp_path, tmp_path, tmp_path, val_images=tmp_path)
    with pytest.raises(SegmendError, match=r"context\.json: not found"):
        load_context(tmp_path)
    (tmp_path / "context.json").write_text("{}")
    with pytest.raises(SegmendError, match="want a file of format"):
        load_context(tmp_path)
