"""`segmend evaluate`: score predictions against masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from segmend.errors import SegmendError

if TYPE_CHECKING:
    from segmend.engine.evaluation import Evaluation
    from segmend.engine.evaluation_tally import Kind

OUT_SUFFIXES = (".json", ".csv")


def evaluate(
    masks: Path = typer.Option(..., help="Folder of target masks."),
    pred: Path | None = typer.Option(None, help="Folder of predicted hard masks."),
    probs: Path | None = typer.Option(
        None, help="Folder of probability maps instead; thresholded, or argmax of many channels."
    ),
    against: Path | None = typer.Option(
        None, help="Folder of the same kind to compare with: paired intervals of the difference."
    ),
    out: list[Path] = typer.Option(
        [], help="Result file: .json (figures of the set) or .csv (one row an image); repeatable."
    ),
    threshold: float | None = typer.Option(
        None, help="Of binary probability maps: foreground where p > threshold.  [default: 0.5]"
    ),
    num_classes: int | None = typer.Option(None, help="Background included.  [default: 2]"),
    ignore_index: int | None = typer.Option(
        None, help="Mask label that counts nowhere.  [default: 255]"
    ),
    metrics: str | None = typer.Option(
        None, help="Of region,contour,mae,fmeasure,calibration,threshold.  [default: all possible]"
    ),
    partial: bool | None = typer.Option(
        None, "--partial", help="Score what has a partner instead of refusing a missing one."
    ),
    recipe: Path | None = typer.Option(None, help="YAML file of settings, or a run.json."),
    set_: list[str] = typer.Option([], "--set", help="Any setting as key=value; repeatable."),
    progress: bool = typer.Option(True, help="Show a progress bar."),
) -> None:
    """Score predictions against masks: region IoU both ways, boundary F, and more for maps.

    The table says of each figure whether it is pooled over the set or averaged over images.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.engine.evaluation import EvaluationOptions, evaluate_folder

    predictions, kind = _one_of(pred, probs)
    _check_suffixes(out)
    given = {
        "threshold": threshold,
        "num_classes": num_classes,
        "ignore_index": ignore_index,
        "metrics": None if metrics is None else [m.strip() for m in metrics.split(",")],
        "partial": partial,
    }
    options = resolve(EvaluationOptions, recipe, set_, given)
    print_settings(options)
    result = evaluate_folder(
        predictions, masks, kind=kind, against=against, options=options, progress=progress
    )
    _print_table(result)
    inputs = {"masks": masks, kind: predictions, "against": against}
    for path in out:
        _write(path, result)
        write_run_record(path, "evaluate", options, {"inputs": inputs})


def _one_of(pred: Path | None, probs: Path | None) -> tuple[Path, Kind]:
    if pred is not None and probs is None:
        return pred, "pred"
    if probs is not None and pred is None:
        return probs, "probs"
    raise SegmendError(
        "give either --pred (a folder of hard masks) or --probs (a folder of probability maps)"
    )


def _check_suffixes(out: list[Path]) -> None:
    for path in out:
        if path.suffix.lower() not in OUT_SUFFIXES:
            raise SegmendError(f"--out {path}: want a name that ends in .json or .csv")


def _print_table(result: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from segmend.engine.evaluation import LEGEND

    table = Table(
        title=f"{len(result.names)} images",
        title_justify="left",
        caption=LEGEND,
        caption_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("figure")
    table.add_column("pred", justify="right", no_wrap=True)
    if result.against is not None:
        level = next(iter(result.differences.values())).level
        table.add_column("against", justify="right", no_wrap=True)
        table.add_column(f"difference \\[{level:.0%} interval]", justify="right")
    for name, value in result.pred.scores.items():
        table.add_row(result.title(name), _number(value), *_comparison(result, name))
    if result.num_classes > 2:
        for index, value in enumerate(result.pred.class_iou.tolist()):
            other = [] if result.against is None else [result.against.class_iou[index].item()]
            table.add_row(f"IoU of class {index}, pooled", *map(_number, [value, *other]))
    Console().print(table)


def _comparison(result: Evaluation, name: str) -> list[str]:
    """Cells right of `pred`: nothing without `--against`, an interval where there is one."""
    if result.against is None:
        return []
    cells = [_number(result.against.scores[name])]
    interval = result.differences.get(name)
    if interval is not None:
        low, high = interval.low, interval.high
        cells.append(f"{interval.difference:+.4f} \\[{low:+.4f}, {high:+.4f}]")
    return cells


def _number(value: float) -> str:
    if value != value:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _write(path: Path, result: Evaluation) -> None:
    import csv
    import json

    from segmend.data.files import atomic_write

    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".json":
            text = json.dumps(result.summary(), indent=2, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", "utf-8")
            return
        rows = list(result.rows())
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
