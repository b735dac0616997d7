"""The parts of the training loop that can be checked by themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from segmend.engine.options import TrainOptions
from segmend.engine.task import is_better, learning_rate_factor, parameter_groups
from segmend.models.segmenters import build_segmenter


@pytest.mark.parametrize("steps", [20, 50, 400])
def test_one_cycle_is_near_torchs(steps):
    """Oracle: torch's OneCycleLR, whose phases are a step shorter."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=0.1)
    largest = 0.0
    for step in range(steps):
        ours = learning_rate_factor(step, steps=steps, schedule="onecycle")
        largest = max(largest, abs(ours - theirs.get_last_lr()[0]))
        optimizer.step()
        theirs.step()
    assert largest < 16 / steps  # a step's worth of the steep rise: slope (pi / 2) / (0.1 * steps)


@pytest.mark.parametrize("schedule", ["onecycle", "poly"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_schedules_stay_between_0_and_1_for_any_length(schedule, steps):
    rates = [learning_rate_factor(i, steps=steps, schedule=schedule) for i in range(steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_encoder_learns_slower_and_vectors_are_not_decayed():
    model = build_segmenter("fpn")
    options = TrainOptions(lr=1.0, encoder_lr_factor=0.25, weight_decay=0.5)
    groups = parameter_groups(model, options)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    encoder = model.network.encoder.features[0]
    assert found[id(encoder.weight)] == (0.25, 0.5)
    assert found[id(encoder.bias)] == (0.25, 0.0)
    assert found[id(model.network.head.weight)] == (1.0, 0.5)


def test_frozen_parameters_are_left_out():
    model = build_segmenter("fpn")
    model.network.encoder.requires_grad_(False)
    assert {group["lr"] for group in parameter_groups(model, TrainOptions())} == {1e-3}


def row(score, loss):
    return {"val_iou": score, "val_loss": loss}


@pytest.mark.parametrize(
    ("new", "best", "better"),
    [
        (row(0.5, 9.0), {}, True),
        (row(0.6, 9.0), row(0.5, 1.0), True),
        (row(0.5, 0.5), row(0.6, 1.0), False),
        (row(0.5, 0.9), row(0.5, 1.0), True),
        (row(0.5, 1.0), row(0.5, 1.0), False),
        (row(math.nan, 0.9), row(math.nan, 1.0), True),
        (row(math.nan, 1.1), row(math.nan, 1.0), False),
        ({"train_loss": 2.0}, {"train_loss": 1.0}, True),
    ],
)
def test_which_epoch_is_kept(new, best, better):
    assert is_better(new, best) is better
