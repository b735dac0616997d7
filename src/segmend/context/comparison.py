"""With and without context labels: train both, tune both, score both, and say how sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from segmend.context.evaluation import (
    ContextScores,
    hold_target,
    mean_scores,
    score_contexts,
    score_difference,
)
from segmend.context.jobs import train_context
from segmend.context.networks import ContextRun, load_context
from segmend.context.options import ContextMethod, ContextOptions
from segmend.context.picture_rows import draw_run, logit_sample
from segmend.context.pictures import draw_logits
from segmend.context.sets import ContextSets
from segmend.data.files import write_json
from segmend.engine.crops import ItemSet
from segmend.engine.jobs import split_off
from segmend.errors import SegmendError
from segmend.metrics.paired import Interval
from segmend.metrics.volume import FIELDS, has_surfaces

COMPARISON = "comparison.json"
PICTURED = 4


@dataclass(frozen=True)
class Compared:
    """One method: its mean scores over test cases by name (see `VolumeScores`), the threshold on
    the margin that val chose, and the paired interval of its Dice to the first method's."""

    method: str
    num_context: int
    scores: dict[str, float]
    threshold: float
    dice_difference: Interval | None
    precision_difference: Interval | None
    background_margin: float
    background_beyond: float


def compare_contexts(
    options: ContextOptions,
    sets: ContextSets,
    out: str | Path,
    *,
    methods: Sequence[ContextMethod] = ("plain", "learned"),
    resume: bool = True,
    progress: bool = True,
) -> list[Compared]:
    """Train one network for each method, and score all on cases that nobody tuned on.

    Each run has a folder of its own below `out`, and is resumed. Thresholds are tuned on the
    validation cases for each network, contexts merged as the options say. Also written:
    comparison.json, contexts.png (what was learned) and logits.png (the background and the
    decision boundary). Without MONAI there are no HD95 and no surface Dice (NaN).

    Args:
        options: shared by all but for method and K: "plain" has 1, "dilate" 2, the others
            `num_context`.
        sets: without a test part, a share (`val_fraction`) of the training cases is held out.
        methods: the first one is what the others are compared to.
    Raises:
        SegmendError: fewer than two methods, no validation cases, several foreground classes, and
            as in `train_context`.
    """
    if len(methods) < 2 or len(set(methods)) != len(methods):
        raise SegmendError(f"methods: want two or more different ones, got {list(methods)}")
    if options.num_classes != 2:
        raise SegmendError("compare: wants two classes; say which labels are the target")
    train, val, test = _three(sets, options)
    out = Path(out)
    runs: dict[str, ContextRun] = {}
    scores: dict[str, ContextScores] = {}
    for method in methods:
        chosen = of_method(options, method)
        train_context(
            train, val, options=chosen, out=out / method, resume=resume, progress=progress,
            description=f"training: {method}",
        )  # fmt: skip
        runs[method] = load_context(out / method)
        scores[method] = score_contexts(
            runs[method].network,
            val,
            test,
            num_context=chosen.num_context,
            window=runs[method].window,
            surfaces=has_surfaces(),
            ignore_index=options.ignore_index,
            progress=progress,
        )[options.merge]
    rows = [compared(m, scores[m], scores[methods[0]], runs[m]) for m in methods]
    content = {"test_cases": len(test), "rows": [written(row) for row in rows]}
    write_json(out / COMPARISON, content)
    chosen_at = torch.tensor(scores[methods[-1]].threshold).sigmoid().item()
    draw_run(runs[methods[-1]], test, out / "contexts.png", shown=PICTURED, threshold=chosen_at)
    samples = {method: logit_sample(run, test) for method, run in runs.items()}
    draw_logits(samples, out / "logits.png", merge=options.merge)
    return rows


def of_method(options: ContextOptions, method: ContextMethod) -> ContextOptions:
    """The same options with another source of context labels, and the K that it can have."""
    contexts = {"plain": 1, "dilate": 2}.get(method, max(2, options.num_context))
    settings: dict[str, Any] = options.model_dump()
    return ContextOptions.model_validate({**settings, "method": method, "num_context": contexts})


def compared(method: str, scores: ContextScores, base: ContextScores, run: ContextRun) -> Compared:
    """The row of a method; the first one is compared to nothing."""
    holds = hold_target(scores.tuned)
    background = scores.background.sum(0)
    intervals: list[Interval | None] = [None, None]
    if scores is not base and bool(holds.any()):
        intervals = [
            score_difference(base.tuned[holds, place], scores.tuned[holds, place])
            for place in (FIELDS.index("dice"), FIELDS.index("precision"))
        ]
    return Compared(
        method=method,
        num_context=run.options.num_context,
        scores=mean_scores(scores.tuned),
        threshold=scores.threshold,
        dice_difference=intervals[0],
        precision_difference=intervals[1],
        background_margin=float(background[1] / background[0]),
        background_beyond=float(background[2] / background[0]),
    )


def written(row: Compared) -> dict[str, Any]:
    """A row for comparison.json; scores that there are none of are null."""
    scores = {name: None if math.isnan(x) else x for name, x in row.scores.items()}
    return {**asdict(row), "scores": scores}


def _three(sets: ContextSets, options: ContextOptions) -> tuple[ItemSet, ItemSet, ItemSet]:
    if sets.val is None:
        raise SegmendError("val: thresholds are tuned on validation cases, and there are none")
    if sets.test is not None:
        return sets.train, sets.val, sets.test
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(options.seed)))
    train, test = split_off(sets.train, fraction=options.val_fraction or 0.2, seed=seed)
    assert test is not None
    return train, sets.val, test
