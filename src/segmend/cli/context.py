"""`segmend context compare`: does it help to learn the background as several classes?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from segmend.context.comparison import Compared


def compare(
    images: Path = typer.Option(
        ..., "--images", "--data", help="Folder of images, or root of a set with dataset.json."
    ),
    out: Path = typer.Option(..., help="Folder for all runs, the comparison and pictures."),
    masks: Path | None = typer.Option(None, help="Folder of masks; with dataset.json none."),
    methods: list[str] = typer.Option(
        ["plain", "learned"], "--method", help="Repeatable; the first is what others are held to."
    ),
    context_maps: Path | None = typer.Option(None, help="maps: folder of your own labels."),
    context: int | None = typer.Option(None, min=2, help="K of methods that can choose it."),
    epochs: int | None = typer.Option(None, help="Passes over the images.  [default: 40]"),
    seed: int | None = typer.Option(None, help="Of everything random.  [default: 0]"),
    resume: bool = typer.Option(True, help="Go on with interrupted runs in --out."),
    recipe: RECIPE = None,
    set_: SETS = None,
    progress: bool = typer.Option(True, help="Show progress bars."),
) -> None:
    """Train with and without context labels; print both, with an interval.

    Thresholds are tuned on validation cases; test cases are only scored. Pictures of what was
    learned and of the background's logits go to --out.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.context.comparison import compare_contexts
    from segmend.context.jobs import check_maps, read_sets
    from segmend.context.options import ContextOptions, context_methods
    from segmend.metrics.volume import has_surfaces

    options = resolve(
        ContextOptions, recipe, set_ or [], {"num_context": context, "epochs": epochs, "seed": seed}
    )
    print_settings(options)
    chosen = context_methods(methods)
    check_maps(chosen, context_maps)
    sets = read_sets(options, images, masks, context_maps=context_maps)
    rows = compare_contexts(options, sets, out, methods=chosen, resume=resume, progress=progress)
    inputs = {"images": images, "masks": masks, "context_maps": context_maps}
    extra: dict[str, Any] = {"inputs": inputs, "methods": methods}
    write_run_record(out, "context compare", options, extra)
    show(rows)
    if not has_surfaces():
        typer.echo("HD95: wants MONAI, which is not installed: pip install 'segmend[medical]'")
    typer.echo(f"pictures: {out / 'contexts.png'}, {out / 'logits.png'}")


def show(rows: list[Compared]) -> None:
    """Print the comparison as a table; intervals are of the difference to the first row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="test cases, each network at the threshold that is best on val")
    heads = ("", "K", "Dice", "95% interval", "precision", "95% interval", "sensitivity")
    for head in (*heads, "HD95", "false parts", "margin", "beyond"):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for row in rows:
        scores = row.scores
        table.add_row(
            row.method,
            str(row.num_context),
            f"{100 * scores['dice']:.1f}",
            _signed(row.dice_difference),
            f"{100 * scores['precision']:.1f}",
            _signed(row.precision_difference),
            f"{100 * scores['sensitivity']:.1f}",
            "–" if math.isnan(scores["hd95"]) else f"{scores['hd95']:.1f}",
            f"{scores['false_positives']:.2f}",
            f"{row.background_margin:.1f}",
            f"{1e4 * row.background_beyond:.1f}‱",
        )
    Console(width=max(140, Console().width)).print(table)


def _signed(interval: Any) -> str:
    if interval is None:
        return ""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.difference:+.1f} [{low:.1f}, {high:.1f}]"
