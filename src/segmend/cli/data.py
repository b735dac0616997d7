"""`segmend data`: make data, fetch it, and find out what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segmend.cli.arguments import RECIPE, SETS
from segmend.errors import SegmendError

if TYPE_CHECKING:
    from rich.console import Console

    from segmend.data.check import Report

SHOWN = 10  # problems of one kind on the screen; --json has them all


def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    count: Annotated[int | None, typer.Option(help="Images to draw.  [default: 100]")] = None,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels.  [default: 96]")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes, background included.  [default: 5]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Image i of a seed is always the same.  [default: 0]")
    ] = None,
    recipe: RECIPE = None,
    set_: SETS = None,
) -> None:
    """Write procedural images, masks and tags in the PASCAL VOC layout."""
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.data.scenes import ScenesJob, write_scenes

    square = None if size is None else (size, size)
    given = {"count": count, "size": square, "num_classes": num_classes, "seed": seed}
    job = resolve(ScenesJob, recipe, set_ or [], given)
    print_settings(job)
    write_scenes(out, **job.model_dump())
    write_run_record(out, "data scenes", job)
    typer.echo(f"{job.count} scenes of {job.num_classes} classes written to {out}")


def check(
    root: Annotated[
        Path, typer.Argument(help="Data set: a folder that has images in or below it.")
    ],
    images: Path | None = typer.Option(None, help="Folder of images, where the root hides it."),
    masks: Path | None = typer.Option(None, help="Folder of masks."),
    tags: Path | None = typer.Option(None, help="Tags: .csv, .json, .npy, or a folder of .xml."),
    classes: Path | None = typer.Option(
        None, help="Class names in label order: .json, or text with one a line."
    ),
    labels: str = typer.Option("SegmentationClass", help="VOC layout: name of the mask folder."),
    num_classes: int | None = typer.Option(
        None, help="Of masks without a list of classes, background included.  [default: 2]"
    ),
    ignore_index: int = typer.Option(255, help="Mask label that counts nowhere."),
    json_: Path | None = typer.Option(None, "--json", help="Write all findings to this file."),
    progress: bool = typer.Option(True, help="Show a progress bar."),
) -> None:
    """Read every file of a data set; list what is wrong with it and what it consists of.

    Exits 2 if there is an error, 0 with warnings alone.
    """
    from segmend.data.check import check_dataset
    from segmend.data.files import write_json

    with _live_bar(progress) as show:
        report = check_dataset(
            root, images=images, masks=masks, tags=tags, classes=classes, labels=labels,
            num_classes=num_classes, ignore_index=ignore_index,
            on_file=lambda done, total: show("reading files", done, total),
        )  # fmt: skip
    _print_report(root, report)
    if json_ is not None:
        write_json(json_, report.summary())
    if report.num_errors:
        raise typer.Exit(2)


def get(
    name: Annotated[str, typer.Argument(help="voc2012, coco2014 or coco2017.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    masks: bool = typer.Option(True, help="COCO: paint masks and tags, in the VOC layout."),
    crowd: str = typer.Option("class", help="COCO: crowd regions as their class, or 'ignore'."),
    base_url: str | None = typer.Option(None, help="Another server that has the same files."),
    checksums: Path | None = typer.Option(
        None, help="MD5s of that server's files, as md5sum writes them."
    ),
    keep_archives: bool = typer.Option(False, help="Keep the downloaded archives."),
    progress: bool = typer.Option(True, help="Show a progress bar."),
) -> None:
    """Download a public data set from its official server, verify and unpack it.

    What is broken off goes on where it stopped when the same command is run again.
    """
    from segmend.cli.settings import write_run_record
    from segmend.data.download import get_archives, read_checksums

    if crowd not in ("class", "ignore"):
        raise SegmendError(f"--crowd: want 'class' or 'ignore', got {crowd!r}")
    with _live_bar(progress) as show:
        get_archives(
            name, out, base_url=base_url, keep_archives=keep_archives, on_bytes=show,
            checksums=None if checksums is None else read_checksums(checksums),
        )  # fmt: skip
        home = out / "VOCdevkit" / "VOC2012" if name == "voc2012" else out
        if name.startswith("coco") and masks:
            _write_masks(out, name.removeprefix("coco"), crowd, show)
    settings = {"name": name, "masks": masks, "crowd": crowd, "base_url": base_url}
    write_run_record(out, "data get", settings)
    typer.echo(f"{name} is in {home}")


def _write_masks(out: Path, year: str, crowd: str, show: Callable[..., None]) -> None:
    from segmend.data.coco import write_coco

    for split in ("train", "val"):
        annotations = out / "annotations" / f"instances_{split}{year}.json"
        write_coco(
            out, out / f"{split}{year}", annotations, split=split,
            crowd="ignore" if crowd == "ignore" else "class",
            on_image=partial(show, f"masks of {split}"),
        )  # fmt: skip


@contextmanager
def _live_bar(enabled: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """A callback (what, done, of how many) behind a bar on stderr; silent without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not enabled, transient=True) as live:
        task = live.add_task("", total=None)

        def show(what: str, done: int, total: int | None) -> None:
            live.update(task, description=what, completed=done, total=total)

        yield show


def _print_report(root: Path, report: Report) -> None:
    """Problems by kind, errors first, then what the set consists of."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    statistics = report.statistics
    sizes = statistics.get("sizes")
    console.print(
        f"{root}: {report.layout}, {statistics['num_images']} images, "
        f"{statistics['num_masks']} masks", markup=False,
    )  # fmt: skip
    if sizes:
        names = ("most_common", "smallest", "largest")
        sides = ", ".join(f"{n.replace('_', ' ')} {'x'.join(map(str, sizes[n]))}" for n in names)
        console.print(f"sizes (height x width): {sides}; {sizes['different']} different")
    _print_classes(console, statistics["classes"])
    for level in ("error", "warning"):
        kinds: dict[str, list[str]] = {}
        for problem in report.problems:
            if problem.level == level:
                kinds.setdefault(problem.kind, []).append(problem.text)
        for kind, texts in kinds.items():
            console.print(f"\n{level}: {kind} ({len(texts)})", style="bold")
            for text in texts[:SHOWN]:
                console.print(f"  {text}", markup=False)
            if len(texts) > SHOWN:
                console.print(f"  ... and {len(texts) - SHOWN} more (--json FILE lists all)")
    warnings = len(report.problems) - report.num_errors
    console.print(f"\n{report.num_errors} errors, {warnings} warnings")


def _print_classes(console: Console, classes: dict[str, dict[str, float]]) -> None:
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(key for row in classes.values() for key in row))
    if not columns:
        return
    table = Table("class", *(c.replace("_", " ") for c in columns), box=box.SIMPLE)
    for name, row in classes.items():
        cells = [row.get(column) for column in columns]
        texts = (
            f"{c:.4f}" if isinstance(c, float) else "–" if c is None else str(c) for c in cells
        )
        table.add_row(name, *texts)
    console.print(table)
