"""Small things to train on: bright squares on a dark ground, and a network that can find them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


class Squares:
    """Images (3, 20, 24) with a bright square, whose pixels are the target."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        rng = torch.Generator().manual_seed(100 * self.seed + index)
        top, left = (int(torch.randint(12, (), generator=rng)) for _ in range(2))
        target = torch.zeros(20, 24, dtype=torch.long)
        target[top : top + 8, left : left + 8] = 1
        image = 0.3 * torch.rand(3, 20, 24, generator=rng) + 0.5 * target
        return {"name": f"square {index}", "image": image, "target": target}


def tiny_network(channels: int = 1) -> nn.Sequential:
    """Batch norm and dropout included: both make resuming harder."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Conv2d(4, channels, 1),
    )


@pytest.fixture
def squares() -> Callable[..., Squares]:
    return Squares


@pytest.fixture
def network() -> Callable[..., nn.Sequential]:
    return tiny_network
