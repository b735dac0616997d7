"""One output for the models of every library: logits (N, C, H, W) of the input's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError

Activation = Literal["logits", "sigmoid", "softmax"]


class AdaptedModel(nn.Module):
    """Another library's model, seen as images (N, 3, H, W) in, logits (N, C, H, W) out."""

    def __init__(self, model: nn.Module, *, activation: Activation = "logits") -> None:
        super().__init__()
        self.model = model
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:
        scores = main_output(self.model(images))
        logits = logits_from(scores, activation=self.activation)
        if logits.shape[-2:] != images.shape[-2:]:
            size = images.shape[-2:]
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits


def adapt(model: nn.Module, *, activation: Activation = "logits") -> AdaptedModel:
    """Wrap a model so that it returns logits (N, C, H, W) at the input's size.

    Args:
        model: takes images (N, 3, H, W) in the range that it was trained with (nothing is
            normalised here) and returns a tensor (smp, MONAI), a mapping with "out"
            (torchvision) or "logits", an object with `.logits` (Hugging Face), a tuple or list
            whose first entry is the main output (auxiliary heads), or MONAI's stacked deep
            supervision (N, heads, C, H, W), whose first head is taken.
        activation: what the model's output already went through. "sigmoid" and "softmax" are
            undone (logit, logarithm), so that the wrapped model always returns logits.
    Returns:
        A module; smaller outputs are enlarged bilinearly (align_corners=False), as Hugging Face
        does after its SegFormer.
    Raises:
        SegmendError: an unknown activation now; when called, an output of none of these forms, or
            probabilities outside [0, 1].
    """
    if activation not in get_args(Activation):
        raise SegmendError(f"activation: want one of {get_args(Activation)}, got {activation!r}")
    return AdaptedModel(model, activation=activation)


def main_output(output: Any) -> Tensor:
    """The (N, C, h, w) tensor inside what a model returned; see `adapt` for the forms."""
    found = output
    if isinstance(found, Mapping):
        found = found.get("out", found.get("logits"))
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    elif isinstance(found, (tuple, list)) and found:
        return main_output(found[0])
    if isinstance(found, Tensor) and found.ndim == 5:
        found = found[:, 0]
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise SegmendError(
            "model output: want a tensor (N, C, h, w), a mapping with 'out' or 'logits', an object "
            f"with .logits, or a tuple that starts with one of these, got {_describe(output)}"
        )
    return found


def logits_from(scores: Tensor, *, activation: Activation) -> Tensor:
    """Undo an activation; probabilities are kept `eps` of their dtype away from 0 and 1."""
    if activation == "logits":
        return scores
    low, high = (float(x) for x in scores.detach().aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise SegmendError(
            f"model output: activation={activation!r} wants probabilities in [0, 1], got values "
            f'from {low:.4g} to {high:.4g}; say activation="logits" if these are logits'
        )
    eps = torch.finfo(scores.dtype).eps
    return scores.logit(eps) if activation == "sigmoid" else scores.clamp_min(eps).log()


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with keys {list(output)}"
    return f"an object of type {type(output).__name__}"
