"""One seed for everything random."""

from __future__ import annotations

import random

import numpy as np
import torch

from segmend.errors import SegmendError

_LARGEST = 2**32 - 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (CPU and GPU).

    Args:
        seed: from 0 to 2**32 - 1.
    """
    if not 0 <= seed <= _LARGEST:
        raise SegmendError(f"seed: want 0 to {_LARGEST}, got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def derive_seed(seed: int, *path: int) -> int:
    """An independent seed for a place in the work, such as (epoch, image), from one seed.

    The same path always gives the same seed, so that resumed work goes on as if never stopped.
    """
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])
