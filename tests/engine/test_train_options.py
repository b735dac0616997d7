"""Options: what fits together, and what the machine makes of "auto"."""

from __future__ import annotations

import re

import pytest
import torch
from pydantic import ValidationError

from segmend.engine.options import (
    TrainOptions,
    has_fast_bfloat16,
    pick_device,
    resolve_precision,
)
from segmend.errors import SegmendError

CPU = torch.device("cpu")


def test_auto_loss_follows_the_channels():
    assert TrainOptions().loss_for(1) == "bce+dice"
    assert TrainOptions().loss_for(5) == "ce"


@pytest.mark.parametrize(("loss", "channels"), [("ce", 1), ("bce", 3), ("bce+dice", 2)])
def test_a_loss_that_does_not_fit(loss, channels):
    with pytest.raises(SegmendError, match=rf"loss: '{re.escape(loss)}' wants .* has {channels}"):
        TrainOptions(loss=loss).loss_for(channels)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1}, {"crop": 3}, {"epoch": 3}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainOptions(**wrong)


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        TrainOptions().lr = 1.0


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "fast"),
    [("AVX2", False, False, False), ("AVX512", False, False, False),
     ("AVX512", True, False, True), ("AVX512", False, True, True), ("DEFAULT", True, True, False)],
)  # fmt: skip
def test_bfloat16_only_where_the_processor_has_it(monkeypatch, capability, avx512_bf16, amx, fast):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bfloat16(CPU) is fast
    assert resolve_precision("auto", CPU) == ("bf16-mixed" if fast else "32-true")
    assert resolve_precision("bf16-mixed", CPU) == "bf16-mixed"


def test_device():
    assert pick_device("cpu") == CPU
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert pick_device("auto") == CPU
        with pytest.raises(SegmendError, match="asked for a GPU, torch finds none"):
            pick_device("gpu")
