"""What a trained run shows of some cases: rows for a sheet of contexts, voxels for their logits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segmend.context.inference import image_logits
from segmend.context.jobs import build_learner
from segmend.context.networks import ContextRun
from segmend.context.pictures import ContextPicture, LogitSample, draw_contexts
from segmend.engine.crops import ItemSet

VOXELS = 20_000
"""Of each class that are drawn at most."""


@torch.no_grad()
def draw_run(
    run: ContextRun, items: ItemSet, path: str | Path, *, shown: int = 4, threshold: float = 0.5
) -> Path:
    """A sheet of up to `shown` cases with a target, evenly spread: image, contexts, prediction.

    Errors are those of the foreground above `threshold`. Contexts are the generator's, or the fixed
    ones that the run was trained with. Raises as `draw_contexts` does.
    """
    learner = build_learner(
        run.options, run.network, items, in_channels=run.in_channels, dimensions=run.dimensions
    )
    rows = []
    for index in spread(items, shown):
        item = items[index]
        image, target = item["image"], item["target"]
        context = (
            run.generator(image[None]).softmax(1)
            if run.generator is not None
            else learner.contexts(image[None], target[None], maps=_maps(item.get("context")))
        )
        logits = image_logits(run.merged, image, window=run.window)
        probs = logits.sigmoid()[0] if len(logits) == 1 else logits.softmax(0)[1]
        rows.append(ContextPicture(str(item["name"]), image, target, context[0], probs, threshold))
    return draw_contexts(rows, path)


@torch.no_grad()
def logit_sample(run: ContextRun, items: ItemSet, *, seed: int = 0) -> LogitSample:
    """Random voxels of both classes, at most `VOXELS` of each; of a run of two classes."""
    rows: list[list[Tensor]] = [[], []]
    for index in range(len(items)):
        item = items[index]
        logits = image_logits(run.network, item["image"], window=run.window).movedim(0, -1)
        for label in (0, 1):
            rows[label].append(logits[item["target"] == label])
    draw = torch.Generator().manual_seed(seed)
    found = [torch.cat(side) for side in rows]
    kept = [side[torch.randperm(len(side), generator=draw)[:VOXELS]] for side in found]
    target = torch.cat([torch.full((len(side),), label) for label, side in enumerate(kept)])
    return LogitSample(torch.cat(kept), target, run.options.num_context)


def spread(items: ItemSet, shown: int) -> list[int]:
    """Up to `shown` cases that have a target, evenly spread; any, where none has."""
    there = [i for i in range(len(items)) if bool((items[i]["target"] == 1).any())]
    there = there or list(range(len(items)))
    count = min(shown, len(there))
    return [there[i * len(there) // count] for i in range(count)]


def _maps(context: Tensor | None) -> Tensor | None:
    return None if context is None else context[None]
