"""The weights that the golden forwards were computed with, by their recipe instead of a file."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from segmend.refine.network import PatchRefineNet, Variant
from segmend.refine.reference import reference_name


def hashed(name: str, count: int) -> np.ndarray:
    """`count` doubles in [-1, 1): a 32-bit integer hash of the tensor's name and the place."""
    mask = np.uint64(0xFFFFFFFF)
    state = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) & mask
    state = state + np.uint64(zlib.crc32(name.encode("ascii"))) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor) & mask
    return 2 * state.astype(np.float64) / 2**32 - 1


def golden_tensor(name: str, like: Tensor) -> Tensor:
    """The tensor of the original's state dict called `name`, by the recipe of the golden values."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    values = hashed(name, like.numel()).reshape(like.shape)
    if like.ndim == 4:
        gain = 0.8 if name.startswith(("out_", "conv_last")) else 1.0
        values = gain * math.sqrt(3 / like[0].numel()) * values
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif name.endswith("running_var"):
        values = 1 + 0.5 * values
    elif name.endswith("weight"):
        values = 1 + 0.2 * values
    else:
        values = 0.05 * values
    return torch.from_numpy(values).to(torch.float32)


def reference_state(variant: Variant) -> dict[str, Tensor]:
    """What the original code would save: its names, and the golden weights."""
    state = PatchRefineNet(variant).state_dict()
    names = [reference_name(ours, variant) for ours in state]
    return {n: golden_tensor(n, t) for n, t in zip(names, state.values(), strict=True)}


def golden_network(variant: Variant) -> PatchRefineNet:
    """PatchRefineNet in eval mode with the golden weights."""
    network = PatchRefineNet(variant)
    state = reference_state(variant)
    network.load_state_dict({n: state[reference_name(n, variant)] for n in network.state_dict()})
    return network.eval()
