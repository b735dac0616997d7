from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from segmend.engine.seeds import derive_seed, seed_everything
from segmend.errors import SegmendError


def test_one_seed_repeats_all_generators():
    draws = []
    for seed in (7, 7, 8):
        seed_everything(seed)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[1], draws[2], strict=True))


def test_derived_seeds_differ_by_place():
    seeds = {derive_seed(seed, a, b) for seed in range(3) for a in range(10) for b in range(10)}
    assert len(seeds) == 300
    assert derive_seed(1, 2, 3) == derive_seed(1, 2, 3)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(SegmendError, match=f"seed: want 0 to .* got {seed}"):
        seed_everything(seed)
