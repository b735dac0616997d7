"""A start for the generator: the labels of a fixed source, which it then makes better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from segmend.context.baselines import ContextSource

START_LR = 3e-3
"""Of Adam. Ours; the published generator starts at random."""


def teach_generator(
    generator: nn.Module,
    source: ContextSource,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    lr: float = START_LR,
) -> list[float]:
    """Teach a generator a source's context labels by cross-entropy on the background.

    A generator that starts at random labels the background at random, and moves while the
    segmenter learns from it; on short schedules that costs more than the labels gain.

    Args:
        generator: to context logits (N, K, *size); changed in place.
        source: K context labels, such as a fitted `KMeansContext`.
        batches: "image" (N, channels, *size) and "target" (N, *size), one a step; those without
            background are passed over.
    Returns:
        The loss of every step.
    """
    optimizer = torch.optim.Adam(generator.parameters(), lr=lr)
    losses = []
    for batch in batches:
        behind = batch["target"] == 0
        if not bool(behind.any()):
            continue
        with torch.no_grad():
            wanted = source.contexts(batch["image"], batch["target"])
        found = generator(batch["image"]).float().log_softmax(1)
        loss = -(wanted * found).sum(1)[behind].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
