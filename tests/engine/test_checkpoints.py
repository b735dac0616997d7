"""What is saved comes back; what is broken or foreign is named; nothing is unpickled."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch import nn

from segmend.engine.checkpoints import load_segmenter, save_segmenter
from segmend.errors import SegmendError
from segmend.models.segmenters import build_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return build_segmenter("unet", num_classes=3).eval()


@pytest.fixture
def saved(tmp_path, segmenter):
    save_segmenter(tmp_path / "run", segmenter, {"metrics": {"val_iou": 0.5}})
    return tmp_path / "run"


@torch.no_grad()
@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_round_trip(saved, segmenter, name):
    model, meta = load_segmenter(saved / name)
    images = torch.rand(1, 3, 20, 33)
    assert torch.equal(model(images), segmenter(images))
    assert not model.training
    assert meta["metrics"] == {"val_iou": 0.5}
    assert meta["model"] == {"architecture": "unet", "encoder": "squeezenet1_0", "num_classes": 3}
    assert {"segmend", "torch"} <= meta["versions"].keys()


def test_only_two_files_and_both_readable_by_others(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["model.json", "model.safetensors"]
    modes = {p.stat().st_mode & 0o777 for p in saved.iterdir()}
    assert len(modes) == 1


def test_any_module_into_a_module(tmp_path, network):
    model = network()
    path = save_segmenter(tmp_path / "tiny.safetensors", model)
    assert path == tmp_path / "tiny.safetensors"
    other = network()
    nn.init.zeros_(other[0].weight)
    load_segmenter(path, model=other)
    assert torch.equal(other[0].weight, model[0].weight)
    with pytest.raises(SegmendError, match=r"tiny\.json: does not say how .*model=\.\.\."):
        load_segmenter(path)


def test_weights_that_share_memory_are_kept(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    path = save_segmenter(tmp_path / "tied.safetensors", model)
    load_segmenter(path, model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def spoil(saved, name, content):
    (saved / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("model.json", b"{", r"model\.json: not readable as JSON"),
        ("model.json", b"[]", r"model\.json: want a file of format .* found 'list'"),
        ("model.json", b'{"format": "other"}', r"model\.json: want .* found 'other'"),
        ("model.safetensors", b"", r"model\.safetensors: not readable as safetensors"),
        ("model.safetensors", pickle.dumps({"a": 1}), r"model\.safetensors: not readable"),
    ],
)
def test_broken_files_are_named(saved, name, content, text):
    spoil(saved, name, content)
    with pytest.raises(SegmendError, match=text):
        load_segmenter(saved)


def test_truncated_weights(saved):
    whole = (saved / "model.safetensors").read_bytes()
    spoil(saved, "model.safetensors", whole[: len(whole) // 2])
    with pytest.raises(SegmendError, match=r"model\.safetensors: not readable"):
        load_segmenter(saved)


def test_missing_folder_and_missing_weights(tmp_path, saved):
    with pytest.raises(SegmendError, match=r"nowhere.model\.json: not found; want the folder"):
        load_segmenter(tmp_path / "nowhere")
    (saved / "model.safetensors").unlink()
    with pytest.raises(SegmendError, match=r"model\.safetensors: not readable"):
        load_segmenter(saved)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_classes": 2}, r"model\.safetensors: the weights do not fit"),
        ({"num_classes": "x"}, r"model\.json: 'model' wants architecture"),
        ({"architecture": "fpm"}, "unknown name 'fpm'"),
    ],
)
def test_a_description_that_does_not_fit(saved, change, text):
    meta = json.loads((saved / "model.json").read_text())
    meta["model"] |= change
    (saved / "model.json").write_text(json.dumps(meta))
    with pytest.raises(SegmendError, match=text):
        load_segmenter(saved)
