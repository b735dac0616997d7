"""What a training step with context labels was like."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepInfo:
    """Tensors without gradient, so that nothing waits for a GPU.

    loss: the segmenter's. usage: (K,), each context's share of background pixels; a context with
    none has collapsed. objective: the meta-objective, of steps at which the generator learned.
    method: see `meta_gradient`.
    """

    loss: Tensor
    usage: Tensor
    objective: Tensor | None = None
    method: str | None = None


def context_usage(context: Tensor, target: Tensor) -> Tensor:
    """Each context's share of the background, (K,), of probabilities (N, K, *size)."""
    background = (target == 0).unsqueeze(1)
    total = (context.detach() * background).movedim(1, 0).flatten(1).sum(1)
    return total / background.sum().clamp(min=1)
