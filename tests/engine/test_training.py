"""Training end to end on tiny images: it learns, keeps the best, and resumes to equal weights."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segmend.engine.prediction import predict_probabilities
from segmend.engine.training import TrainOptions, train_segmenter
from segmend.errors import SegmendError

OPTIONS = TrainOptions(epochs=4, batch_size=3, crop=16, lr=0.05, threads=1, accelerator="cpu")


def run(model, train_set, val_set, out, *, options=OPTIONS, **more):
    return train_segmenter(
        model, train_set, val_set, options=options, out=out, progress=False, **more
    )


class Stopping:
    """Raises when asked for its n-th item: a run that is killed in the middle of an epoch."""

    def __init__(self, items, *, at, error):
        self.items, self.at, self.error, self.reads = items, at, error, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.at:
            raise self.error
        return self.items[index]


def test_learns_and_writes_only_into_out(tmp_path, squares, network, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = OPTIONS.model_copy(update={"epochs": 12})
    model = network()
    result = run(model, squares(9), squares(4, seed=1), tmp_path / "run", options=options)
    assert result.best["val_iou"] > 0.8
    assert result.best["val_iou"] == max(row["val_iou"] for row in result.curve)
    assert [row["epoch"] for row in result.curve] == list(range(1, 13))
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "curve.json", "last.ckpt", "model.json", "model.safetensors", "train.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "run/curve.json").read_text()) == result.curve
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_best_row_is_the_iou_of_the_weights_that_are_kept(tmp_path, squares, network):
    val_set, model = squares(4, seed=1), network()
    options = OPTIONS.model_copy(update={"lr": 0.5, "schedule": "poly"})  # an unsteady curve
    result = run(model, squares(9), val_set, tmp_path, options=options)
    hit = union = 0
    for index, (_, probs) in enumerate(predict_probabilities(model, val_set)):
        found, truth = probs[0] > 0.5, val_set[index]["target"] == 1
        hit, union = hit + int((found & truth).sum()), union + int((found | truth).sum())
    assert result.best["val_iou"] == pytest.approx(hit / union)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("schedule", ["onecycle", "poly"])
@pytest.mark.parametrize("error", [RuntimeError("killed"), KeyboardInterrupt()])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, squares, network, schedule, error
):
    options = OPTIONS.model_copy(update={"schedule": schedule, "cache": False})
    train_set, val_set = squares(7), squares(2, seed=1)
    whole = run(network(), train_set, val_set, tmp_path / "whole", options=options)
    handler = signal.getsignal(signal.SIGINT)
    stopping = Stopping(train_set, at=2 * 6 + 3, error=error)  # in the third of four epochs
    with pytest.raises(type(error)):
        run(network(), stopping, val_set, tmp_path / "parts", options=options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(json.loads((tmp_path / "parts/curve.json").read_text())) == 2
    parts = run(network(), train_set, val_set, tmp_path / "parts", options=options)

    def untimed(curve):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in curve]

    assert untimed(parts.curve) == untimed(whole.curve)
    last = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    ]
    assert last[0]["global_step"] == last[1]["global_step"]
    for name, tensor in last[0]["state_dict"].items():
        assert torch.equal(tensor, last[1]["state_dict"][name]), name
    kept = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())


def test_an_interrupt_before_the_first_epoch_ends_starts_afresh(tmp_path, squares, network):
    stopping = Stopping(squares(6), at=2, error=RuntimeError("killed"))
    options = OPTIONS.model_copy(update={"epochs": 1, "cache": False})
    with pytest.raises(RuntimeError, match="killed"):
        run(network(), stopping, None, tmp_path, options=options)
    result = run(network(), squares(6), None, tmp_path, options=options)
    assert len(result.curve) == 1


def test_a_finished_run_is_read_back_and_not_repeated(tmp_path, squares, network):
    options = OPTIONS.model_copy(update={"epochs": 1})
    first = run(network(), squares(6), None, tmp_path, options=options)
    before = (tmp_path / "last.ckpt").stat().st_mtime_ns
    model = network()
    again = run(model, squares(6), None, tmp_path, options=options)
    assert again == first
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == before
    kept = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in kept.items())


def test_same_seed_same_numbers_other_seed_other_numbers(tmp_path, squares, network):
    losses = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        options = OPTIONS.model_copy(update={"epochs": 1, "seed": seed})
        result = run(network(), squares(6), None, tmp_path / name, options=options)
        losses.append(result.curve[0]["train_loss"])
    assert losses[0] == losses[1] != losses[2]


def test_other_options_in_the_same_folder_are_refused_or_start_afresh(tmp_path, squares, network):
    short = OPTIONS.model_copy(update={"epochs": 1})
    run(network(), squares(6), None, tmp_path, options=short)
    other = short.model_copy(update={"lr": 0.01, "threads": None})
    with pytest.raises(SegmendError, match=r"options \(lr was 0.05, now 0.01\); .*--no-resume"):
        run(network(), squares(6), None, tmp_path, options=other)
    with pytest.raises(SegmendError, match="images was 6, now 5"):
        run(network(), squares(5), None, tmp_path, options=short)
    result = run(network(), squares(6), None, tmp_path, options=other, resume=False)
    assert len(result.curve) == 1


def test_patience_stops_early(tmp_path, squares):
    options = OPTIONS.model_copy(update={"epochs": 30, "patience": 2, "lr": 1e-30})
    model = nn.Conv2d(3, 1, 1)  # nothing changes: no batch norm, and steps below float32
    result = run(model, squares(3), squares(2, seed=1), tmp_path, options=options)
    assert result.best["epoch"] == 1
    assert len(result.curve) == 3


@pytest.mark.parametrize("patience", [None, 1])
def test_killed_after_the_last_epoch_there_is_nothing_left_to_train(tmp_path, squares, patience):
    options = OPTIONS.model_copy(update={"epochs": 2 if patience is None else 9, "lr": 1e-30})
    options = options.model_copy(update={"patience": patience})
    val_set = squares(2, seed=1)
    first = run(nn.Conv2d(3, 1, 1), squares(3), val_set, tmp_path, options=options)
    state = json.loads((tmp_path / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps({**state, "finished": False}))
    again = run(nn.Conv2d(3, 1, 1), squares(3), val_set, tmp_path, options=options)
    assert again == first
    assert len(again.curve) == 2
    assert json.loads((tmp_path / "train.json").read_text())["finished"]


def test_many_classes_whole_images_and_all_ignored_targets(tmp_path, squares, network):
    class Other(type(squares(1))):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            if index == 0:
                item["target"] = torch.full_like(item["target"], 255)
            return item

    options = OPTIONS.model_copy(update={"epochs": 2, "crop": None, "augment": False})
    result = run(network(3), Other(4), Other(2), tmp_path, options=options)
    assert math.isfinite(result.best["train_loss"])
    assert 0 <= result.best["val_iou"] <= 1


def test_a_model_in_evaluation_mode_is_trained_in_training_mode(tmp_path, squares, network):
    model = network().eval()
    before = model[1].running_mean.clone()
    options = OPTIONS.model_copy(update={"epochs": 1})
    run(model, squares(3), None, tmp_path, options=options)
    assert not torch.equal(model[1].running_mean, before)
    assert not model.training


def test_bfloat16_can_be_asked_for(tmp_path, squares, network):
    options = OPTIONS.model_copy(update={"epochs": 1, "precision": "bf16-mixed"})
    model = network().eval()
    run(model, squares(3), None, tmp_path, options=options)
    assert model[0].weight.dtype == torch.float32


def test_workers_give_the_same_numbers(tmp_path, squares, network):
    losses = []
    for workers in (0, 1):
        options = OPTIONS.model_copy(update={"epochs": 2, "num_workers": workers})
        result = run(network(), squares(6), None, tmp_path / str(workers), options=options)
        losses.append([row["train_loss"] for row in result.curve])
    assert losses[0] == losses[1]


@pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")
def test_a_loss_that_is_not_finite_is_an_error(tmp_path, squares, network):
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    with pytest.raises(SegmendError, match=r"loss of epoch 1 is nan; .* lower lr"):
        run(model, squares(3), None, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_bad_arguments(tmp_path, squares, network):
    with pytest.raises(SegmendError, match="train_set: want at least one image"):
        run(network(), squares(0), None, tmp_path)
    with pytest.raises(SegmendError, match=r"patience: .* wants a val_set"):
        run(network(), squares(2), None, tmp_path, options=TrainOptions(patience=2))
    with pytest.raises(SegmendError, match="loss: 'ce' wants 2 or more"):
        run(network(), squares(2), None, tmp_path, options=TrainOptions(loss="ce", crop=16))


def test_out_is_a_file(tmp_path, squares, network):
    blocked = Path(tmp_path / "file")
    blocked.write_text("")
    with pytest.raises(SegmendError, match="file"):
        run(network(), squares(2), None, blocked)
