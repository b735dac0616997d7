"""A background of two modes around the foreground: one class cannot fence it off, two can."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmend.context.baselines import ContextSource, PlainContext, RandomContext
from segmend.context.learner import ContextLabelLearner


def batch(draw: torch.Generator, count: int = 4) -> dict[str, Tensor]:
    """Foreground of intensity 0, background of -2 or 2, pixel by pixel."""
    kind = torch.rand(count, 12, 12, generator=draw)
    mean = torch.where(kind < 0.15, 0.0, torch.where(kind < 0.58, -2.0, 2.0))
    images = mean + 0.4 * torch.randn(mean.shape, generator=draw)
    return {"image": images.unsqueeze(1), "target": (kind < 0.15).long()}


def precision_at_most_recall(contexts: int, source: nn.Module | ContextSource) -> float:
    """Of a linear segmenter's foreground scores, at the threshold that finds 95 %."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 1 + contexts, 1))
    learner = ContextLabelLearner(
        model,
        source,
        num_context=contexts,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        generator_lr=0.03,
        update_every=2,
        tau=None,
    )
    draw = torch.Generator().manual_seed(0)
    for _ in range(150):
        learner.step(batch(draw))
    test = batch(torch.Generator().manual_seed(1), 16)
    scores = learner.export_model(merge="sum")(test["image"]).softmax(1)[:, 1].flatten()
    truth = test["target"].flatten()[scores.argsort(descending=True)]
    found = truth.cumsum(0)
    last = int((found >= 0.95 * found[-1]).nonzero()[0])
    return float(found[last]) / (last + 1)


def test_learned_contexts_find_the_modes() -> None:
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Tanh(), nn.Conv2d(8, 2, 1))
    learned = precision_at_most_recall(2, generator)
    assert learned > 0.97
    assert precision_at_most_recall(1, PlainContext()) < 0.5
    assert precision_at_most_recall(2, RandomContext(2)) < 0.5
