"""Training on two processes: the weights, figures and files that one process would leave."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from segmend.data.scenes import write_scenes
from segmend.engine.crops import EpochSampler
from segmend.engine.parallel import ShardedBatches, launch
from segmend.engine.training import TrainOptions, train_segmenter
from segmend.errors import SegmendError
from tests_support import run_command as segmend

# A mean over pixels, and crops within the images: then a batch's loss is a mean over its images.
# In bfloat16, which "auto" is on some processors, sums in another order differ by a percent.
OPTIONS = TrainOptions(
    epochs=3, batch_size=3, crop=16, lr=0.02, threads=1, accelerator="cpu", loss="bce", cache=False,
    precision="32-true",
)  # fmt: skip
TWO = OPTIONS.model_copy(update={"devices": 2})


class Blobs:
    """Images (3, 20, 24) whose bright half is the target; may fail at its n-th read."""

    def __init__(self, count: int, *, fail_at: int | None = None) -> None:
        self.count, self.fail_at, self.reads = count, fail_at, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        self.reads += 1
        if self.reads == self.fail_at:
            raise SegmendError(f"image {index} is broken")
        rng = torch.Generator().manual_seed(index)
        image = torch.rand(3, 20, 24, generator=rng)
        return {"name": f"blob {index}", "image": image, "target": (image[0] > 0.5).long()}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))


def fit(out, options, *, images=8, **more):
    return train_segmenter(
        network(), Blobs(images, **more), Blobs(3), options=options, out=out, progress=False
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return fit(out, OPTIONS)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One process, broken off in the second epoch; two processes go on from there."""
    out = tmp_path_factory.mktemp("together")
    with pytest.raises(SegmendError, match=r"^image \d is broken$"):
        fit(out, OPTIONS, fail_at=10)
    assert len(json.loads((out / "curve.json").read_text())) == 1
    return fit(out, TWO)


def test_the_weights_are_those_of_one_process(alone, together):
    one, two = (load_file(r.checkpoint / "model.safetensors") for r in (alone, together))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    moved = network().state_dict()["0.weight"] - one["0.weight"]
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("figure", ["train_loss", "val_loss", "val_iou"])
def test_figures_are_over_all_images(alone, together, figure):
    one, two = ([row[figure] for row in r.curve] for r in (alone, together))
    assert two == pytest.approx(one, rel=1e-4)


def test_files_are_written_once_and_nothing_is_left_over(alone, together):
    one, two = (sorted(p.name for p in r.checkpoint.iterdir()) for r in (alone, together))
    assert one == two


@given(
    count=st.integers(1, 20),
    size=st.integers(1, 6),
    world=st.integers(1, 4),
    drop=st.booleans(),
)
def test_all_processes_together_see_the_batches_of_one(count, size, world, drop):
    def batches(rank, world):
        sampler = EpochSampler(count, seed=3)
        return ShardedBatches(sampler, batch_size=size, drop_last=drop, rank=rank, world=world)

    whole = batches(0, 1)
    parts = [batches(rank, world) for rank in range(world)]
    assert all(len(part) == len(whole) == len(list(part)) for part in parts)
    for number, (batch, *shards) in enumerate(zip(whole, *parts, strict=True)):
        shares = [part.share(number) for part in parts]
        real = [s for s, share in zip(shards, shares, strict=True) if share > 0]
        assert sorted(i for shard in real for i in shard) == sorted(batch)
        assert all(shards)
        # The mean over processes of share x mean over the shard is the mean over the batch.
        mean = sum(w * sum(s) / len(s) for w, s in zip(shares, shards, strict=True)) / world
        assert mean == pytest.approx(sum(batch) / len(batch))


def test_more_processes_than_images_in_a_batch_are_refused():
    with pytest.raises(ValueError, match="devices: want at most batch_size = 2, got 3"):
        TrainOptions(batch_size=2, devices=3)


def test_a_validation_set_smaller_than_the_processes_is_refused(tmp_path):
    with pytest.raises(SegmendError, match="val_set: want an image for each of 2 devices"):
        train_segmenter(network(), Blobs(4), Blobs(1), options=TWO, out=tmp_path, progress=False)


def break_the_second(rank: int, count: int) -> None:
    if rank == 1:
        raise SegmendError(f"process {rank} of {count} met a broken image")
    time.sleep(60)  # as if it waited for the other


def test_the_error_of_one_process_ends_all_and_keeps_its_words():
    with pytest.raises(SegmendError, match=r"^process 1 of 2 met a broken image$"):
        launch(break_the_second, 2, accelerator="cpu")


def test_work_that_cannot_be_sent_is_refused():
    with pytest.raises(SegmendError, match="can be pickled"):
        launch(lambda rank, count: None, 2, accelerator="cpu")


def test_a_module_that_is_not_to_learn_stays_as_it_was(tmp_path):
    options = OPTIONS.model_copy(update={"freeze": ("0",)})
    found = load_file(fit(tmp_path, options).checkpoint / "model.safetensors")
    before = network().state_dict()
    assert torch.equal(found["0.weight"], before["0.weight"])
    assert not torch.equal(found["2.weight"], before["2.weight"])


def test_a_module_to_freeze_that_is_not_there_is_named(tmp_path):
    options = OPTIONS.model_copy(update={"freeze": ("stem",)})
    with pytest.raises(SegmendError, match=r"freeze: no module 'stem' .*some are 0, 2"):
        fit(tmp_path, options)


def test_sgd_without_momentum_takes_plain_steps(tmp_path):
    options = OPTIONS.model_copy(
        update={
            "optimizer": "sgd", "momentum": 0.0, "epochs": 1, "batch_size": 8, "lr": 0.1,
            "weight_decay": 0.0, "schedule": "poly", "crop": None, "augment": False,
        }
    )  # fmt: skip
    found = load_file(fit(tmp_path, options).checkpoint / "model.safetensors")
    model, items = network(), [Blobs(8)[i] for i in range(8)]
    images, targets = (torch.stack([item[key] for item in items]) for key in ("image", "target"))
    logits = model(images)[:, 0]
    nn.functional.binary_cross_entropy_with_logits(logits, targets.float()).backward()
    # "encoder" is nowhere in the names: every weight has the full rate.
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_the_command_line_trains_on_two_processes(tmp_path):
    write_scenes(tmp_path / "data", 8, size=(32, 32), num_classes=3, seed=0, empty=0)
    words = ["tags", "train", "--data", str(tmp_path / "data"), "--split", "train"]
    for text in (
        "crop=32",
        "batch_size=4",
        "epochs=1",
        "threads=1",
        "accelerator=cpu",
        "precision=32-true",
    ):
        words += ["--set", text]
    done = subprocess.run(
        [sys.executable, "-m", "segmend.cli.main", *words, "--out", str(tmp_path / "two"),
         "--set", "devices=2"],
        capture_output=True, text=True, timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    alone = segmend(*words, "--out", tmp_path / "one")
    assert alone.exit_code == 0, alone.output
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
