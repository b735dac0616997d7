"""The one promise of cross-fitting: no image's map comes from a model that has seen it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from segmend.data.probability_maps import read_probabilities
from segmend.engine.checkpoints import load_segmenter
from segmend.engine.crossfit import assign_folds, cross_fit
from segmend.engine.prediction import predict_probabilities
from segmend.engine.training import TrainOptions
from segmend.errors import SegmendError

OPTIONS = TrainOptions(epochs=1, batch_size=2, crop=16, lr=0.05, threads=1, accelerator="cpu")


@given(st.integers(2, 30), st.data())
def test_folds_are_a_division_into_equal_parts(count, data):
    folds = data.draw(st.integers(2, count))
    names = [f"image {i}" for i in range(count)]
    fold_of = assign_folds(names, folds=folds, seed=data.draw(st.integers(0, 99)))
    assert sorted(fold_of) == sorted(names)
    sizes = Counter(fold_of.values())
    assert sorted(sizes) == list(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_folds_follow_the_seed():
    names = [str(i) for i in range(20)]
    divisions = [assign_folds(names, folds=4, seed=seed) for seed in (0, 0, 1)]
    assert divisions[0] == divisions[1] != divisions[2]


class Watched:
    """Notes the names that are read while `reading_for` says who is at work."""

    def __init__(self, items):
        self.items, self.log = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        self.log.append(item["name"])
        return item


def test_no_map_is_of_a_model_that_has_seen_the_image(tmp_path, squares, network, monkeypatch):
    import segmend.engine.crossfit as module

    seen: list[set[str]] = []
    real = module.train_segmenter

    def watched(model, train_set, *args, **options):
        watch = Watched(train_set)
        result = real(model, watch, *args, **options)
        seen.append(set(watch.log))
        return result

    monkeypatch.setattr(module, "train_segmenter", watched)
    items = squares(9)
    result = cross_fit(
        network, items, folds=3, options=OPTIONS, out=tmp_path, progress=False, suffix=".npy"
    )
    names = {f"square {i}" for i in range(9)}
    assert json.loads((tmp_path / "folds.json").read_text())["fold_of"] == result.fold_of
    assert result.fold_of.keys() == names
    assert len(seen[3]) >= 8  # the final model; a last batch of one is left out
    for index in range(9):
        name = f"square {index}"
        fold = result.fold_of[name]
        assert name not in seen[fold]
        assert seen[fold] == {other for other in names if result.fold_of[other] != fold}
        model, _ = load_segmenter(tmp_path / f"fold_{fold}", model=network())
        [(_, expected)] = predict_probabilities(model, [items[index]])
        stored = read_probabilities(result.out_of_fold / f"{name}.npy")
        torch.testing.assert_close(stored, expected, atol=1e-3, rtol=0)


def test_goes_on_where_it_stopped(tmp_path, squares, network):
    built = []

    def build():
        built.append(1)
        if len(built) == 3:
            raise KeyboardInterrupt
        return network()

    with pytest.raises(KeyboardInterrupt):
        cross_fit(build, squares(6), folds=3, options=OPTIONS, out=tmp_path, progress=False)
    first = tmp_path / "fold_0/model.safetensors"
    written = first.stat().st_mtime_ns
    maps = sorted(tmp_path.glob("out_of_fold/*"))
    assert len(maps) == 4
    result = cross_fit(network, squares(6), folds=3, options=OPTIONS, out=tmp_path, progress=False)
    assert first.stat().st_mtime_ns == written
    assert len(sorted(result.out_of_fold.iterdir())) == 6
    assert result.final is not None
    assert (tmp_path / "model.safetensors").exists()
    fold_1, fold_2 = (load_file(tmp_path / f"fold_{i}/model.safetensors") for i in (1, 2))
    assert not torch.equal(fold_1["0.weight"], fold_2["0.weight"])


def test_another_division_in_the_same_folder_is_refused(tmp_path, squares, network):
    options = {"options": OPTIONS, "out": tmp_path, "progress": False, "final": False}
    assert cross_fit(network, squares(4), folds=2, **options).final is None
    with pytest.raises(SegmendError, match=r"folds\.json: holds another division"):
        cross_fit(network, squares(4), folds=3, **options)
    cross_fit(network, squares(4), folds=3, resume=False, **options)


@pytest.mark.parametrize("folds", [0, 1, 5])
def test_folds_out_of_range(folds):
    with pytest.raises(SegmendError, match=rf"folds: want 2 to .* \(4\), got {folds}"):
        assign_folds(list("abcd"), folds=folds, seed=0)


def test_names_that_occur_twice():
    with pytest.raises(SegmendError, match="names: want each once, got twice: a"):
        assign_folds(["a", "b", "a"], folds=2, seed=0)
