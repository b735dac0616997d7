"""The published meta-gradient's inputs, and its two networks with the published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = [
    f"{axes}_{activation}_{supervision}"
    for axes in ("2d", "3d")
    for activation in ("lrelu", "tanh")
    for supervision in ("ds", "nods")
]


class Golden:
    """One file: arrays as tensors, and networks of a given dtype."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"colab_meta_{name}.npz") as file:
            self.arrays = dict(file)
        self.smooth = "tanh" in name

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    @property
    def target(self) -> Tensor:
        return self["y"].long()

    def network(self, which: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        layers = []
        for layer in ("conv1", "conv2"):
            weight, bias = self[f"w.{which}.{layer}.weight"], self[f"w.{which}.{layer}.bias"]
            size = tuple(weight.shape[2:])
            padding = tuple(side // 2 for side in size)
            conv = nn.Conv3d(weight.shape[1], weight.shape[0], size, padding=padding)
            conv.load_state_dict({"weight": weight, "bias": bias})
            layers.append(conv)
        between = nn.Tanh() if self.smooth else nn.LeakyReLU(0.01)
        return nn.Sequential(layers[0], between, layers[1]).to(dtype)

    def flat(self, start: str, end: str = "") -> Tensor:
        """All gradients of a network, one after the other."""
        parts = [f"{c}.{p}" for c in ("conv1", "conv2") for p in ("weight", "bias")]
        return torch.cat([self[f"{start}.{part}{end}"].flatten() for part in parts])


def relative(found: Tensor, expected: Tensor) -> float:
    """Difference by its length, as a share of the expected one's."""
    return float((found - expected).norm() / expected.norm())


def flatten(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
