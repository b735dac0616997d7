"""Figures of all stages of a run side by side on the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmend.data.tags import TagFolder
    from segmend.tags.evaluation import TagScores


def show_run(scores: Mapping[str, TagScores], items: TagFolder) -> None:
    """Print one table: a column a stage and split, a line a figure in percent."""
    from rich.console import Console
    from rich.table import Table

    from segmend.cli.pipeline import background_share

    lines: dict[str, Callable[[TagScores], float | None]] = {
        "mIoU": lambda s: s.mean_iou,
        "boundary F": lambda s: s.boundary_f,
        "out-of-candidate pixels": lambda s: s.out_of_candidate,
        "background pixels": lambda s: background_share(s, items),
        "  in truth": lambda s: background_share(s, items, true=True),
        "ignored pixels": lambda s: s.ignored,
        "tag mAP": lambda s: s.tag_map,
    }
    table = Table()
    table.add_column("%")
    for column in scores:
        table.add_column(column, justify="right")
    table.add_row("images", *(str(len(s.names)) for s in scores.values()))
    for name, value in lines.items():
        found = [value(s) for s in scores.values()]
        if any(v is not None for v in found):
            table.add_row(name, *map(_percent, found))
    constants = [s.constant for s in scores.values()]
    if any(c is not None for c in constants):
        cells = ("" if c is None else f"{c:.2f}" for c in constants)
        table.add_row("background constant", *cells)
    table.add_section()
    for label, name in enumerate(items.classes):
        values = [float(s.per_class[label]) for s in scores.values()]
        table.add_row(f"IoU {name}", *map(_percent, values))
    Console().print(table)


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return "absent" if value != value else f"{100 * value:.1f}"
