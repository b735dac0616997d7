"""Weights of a backbone from a file of the user's, by name, without unpickling anything."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn

from segmend.errors import SegmendError, reason_of
from segmend.models.segmenters import Weights

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
WRAPPERS = ("state_dict", "model")
"""Where training scripts put the weights within a checkpoint."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def weights_file(weights: str) -> Path | None:
    """The path that a `weights` setting names, or None where it is one of the words.

    Raises:
        SegmendError: neither a word nor the path of a file that exists.
    """
    if weights in get_args(Weights):
        return None
    path = Path(weights)
    if path.suffix not in SUFFIXES or not path.is_file():
        raise SegmendError(
            f"weights: want one of {get_args(Weights)} or an existing file "
            f"({', '.join(SUFFIXES)}), got {weights!r}"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file, also where a checkpoint wraps them or DDP prefixed them.

    Raises:
        SegmendError: not a file of tensors, or one that holds more than tensors and numbers.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file raises
        reason = reason_of(error)
        raise SegmendError(f"{path}: not readable as a file of weights alone: {reason}") from error
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        raise SegmendError(f"{path}: want named tensors, got {type(found).__name__}")
    tensors = {k.removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise SegmendError(f"{path}: holds no tensors")
    return tensors


def load_backbone(backbone: AnyModule, path: Path) -> AnyModule:
    """Load what the file has of the backbone's names; a head in it is left out.

    Raises:
        SegmendError: a name of the backbone is missing, or has another shape.
    """
    found, own = read_weights(path), backbone.state_dict()
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in found]
    if missing:
        raise SegmendError(
            f"{path}: lacks {len(missing)} of the backbone's {len(needed)} tensors, such as "
            f"{missing[0]}; it has names such as {next(iter(found))}"
        )
    for name in needed:
        if found[name].shape != own[name].shape:
            raise SegmendError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, the backbone's has "
                f"{tuple(own[name].shape)}"
            )
    backbone.load_state_dict({name: found.get(name, own[name]) for name in own})
    return backbone
