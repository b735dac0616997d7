"""Maps on disk equal the model's own output, whatever is batched, interrupted or resumed."""

from __future__ import annotations

import pytest
import torch

from segmend.data.images import write_image
from segmend.data.probability_maps import read_probabilities
from segmend.engine.crops import CachedSet
from segmend.engine.prediction import (
    Part,
    equal_size_batches,
    names_of,
    predict_folder,
    predict_probabilities,
    probabilities,
)
from segmend.errors import SegmendError

SIZES = [(6, 9), (6, 9), (6, 9), (1, 1), (1, 7), (6, 9)]


@pytest.fixture
def images(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for number, size in enumerate(SIZES):
        name = f"sub/größe {number}.v2.png" if number == 4 else f"{number}.png"
        write_image(tmp_path / "images" / name, torch.rand(3, *size, generator=rng))
    return tmp_path / "images"


def by_hand(model, images):
    from segmend.data.folders import SegmentationFolder

    model.eval()
    with torch.no_grad():
        return {
            item["name"]: probabilities(model(item["image"][None]))[0]
            for item in SegmentationFolder(images)
        }


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_probabilities_of_a_folder(images, network, batch_size):
    model = network().train()
    found = dict(predict_probabilities(model, images, batch_size=batch_size, precision="32-true"))
    assert model.training
    expected = by_hand(model, images)
    assert found.keys() == expected.keys()
    for name, probs in found.items():
        torch.testing.assert_close(probs, expected[name])


def test_one_channel_is_a_sigmoid_and_many_a_softmax():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert torch.equal(probabilities(logits), logits.float().softmax(1))
    assert torch.equal(probabilities(logits[:, :1]), logits[:, :1].float().sigmoid())


@pytest.mark.parametrize(
    ("channels", "suffix", "step"),
    [(1, None, 1 / 65535), (3, None, 1e-3), (1, ".npy", 1e-3), (1, ".tif", 1e-6)],
)
def test_maps_on_disk(images, tmp_path, network, channels, suffix, step):
    model, out = network(channels), tmp_path / "maps"
    paths = predict_folder(model, images, out, suffix=suffix, precision="32-true", progress=False)
    wanted = suffix or (".png" if channels == 1 else ".npz")
    expected = by_hand(model, images)
    assert [str(p.relative_to(out)) for p in paths] == [f"{name}{wanted}" for name in expected]
    for path, probs in zip(paths, expected.values(), strict=True):
        torch.testing.assert_close(read_probabilities(path), probs, atol=step, rtol=0)


def test_resume_writes_only_what_is_missing(images, tmp_path, network):
    model, out = network(), tmp_path / "maps"
    paths = predict_folder(model, images, out, progress=False)
    paths[2].unlink()
    times = {p: p.stat().st_mtime_ns for p in paths if p.exists()}
    assert predict_folder(model, images, out, progress=False) == paths
    assert paths[2].exists()
    assert {p: p.stat().st_mtime_ns for p in times} == times
    predict_folder(model, images, out, progress=False, resume=False)
    assert all(p.stat().st_mtime_ns != time for p, time in times.items())


def test_a_killed_run_leaves_whole_maps_only(images, tmp_path, network):
    model, out = network(), tmp_path / "maps"
    calls = []

    def fail_at_the_third(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(model, images, out, progress=False, batch_size=1)
    hook.remove()
    left = [p for p in out.rglob("*") if p.is_file()]
    assert len(left) == 2
    for path in left:
        read_probabilities(path)
    assert len(predict_folder(model, images, out, progress=False)) == len(SIZES)


def test_batches_hold_neighbours_of_one_size_in_order():
    items = [{"image": torch.zeros(3, *size), "n": n} for n, size in enumerate(SIZES)]
    batches = [[item["n"] for item in batch] for batch in equal_size_batches(items, size=2)]
    assert batches == [[0, 1], [2], [3], [4], [5]]


def test_names_without_decoding(squares, images):
    from segmend.data.folders import SegmentationFolder

    class Undecodable(SegmentationFolder):
        def __getitem__(self, index):
            raise AssertionError("decoded")

    folder = Undecodable(images)
    assert names_of(Part(Part(folder, [3, 2, 1]), [2, 0])) == ["1", "3"]
    assert names_of(CachedSet(squares(2), progress=False)) == ["square 0", "square 1"]


@pytest.mark.parametrize("option", [{"suffix": ".jpg"}, {"batch_size": 0}])
def test_bad_options(images, tmp_path, network, option):
    name, value = next(iter(option.items()))
    with pytest.raises(SegmendError, match=f"{name}: want .* got {value!r}"):
        predict_folder(network(), images, tmp_path / "maps", progress=False, **option)
