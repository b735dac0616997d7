"""Figures of maps and masks as a table on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmend.data.tags import TagFolder
    from segmend.tags.evaluation import TagScores


def show(scores: TagScores, items: TagFolder) -> None:
    """Print the figures, and the IoU of each class."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(scores.names)} images")
    table.add_column("")
    table.add_column("", justify="right")
    rows = {
        "mIoU": scores.mean_iou,
        "boundary F": scores.boundary_f,
        "out-of-candidate pixels": scores.out_of_candidate,
        "ignored pixels": scores.ignored,
        "tag mAP": scores.tag_map,
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, f"{100 * value:.1f}")
    if scores.constant is not None:
        table.add_row("background constant", f"{scores.constant:.2f}")
    table.add_section()
    for name, value in zip(items.classes, scores.per_class.tolist(), strict=True):
        table.add_row(f"IoU {name}", "absent" if value != value else f"{100 * value:.1f}")
    Console().print(table)
