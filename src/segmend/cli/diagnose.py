"""`segmend diagnose`: what is wrong with a model's masks, what mending it would gain, what next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmend.cli.arguments import RECIPE, SETS

if TYPE_CHECKING:
    from rich.table import Table

    from segmend.diagnose.options import DiagnoseOptions
    from segmend.diagnose.result import Diagnosis, Fix

SHOWN = 8
"""Fixes in the printed table: those that gain most beyond chance."""


def diagnose(
    masks: Annotated[Path, typer.Option(help="Folder of the true masks.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json, images.csv.")],
    probs: Annotated[
        Path | None, typer.Option(help="Folder of the model's probability maps.")
    ] = None,
    pred: Annotated[
        Path | None, typer.Option(help="Folder of hard masks: instead of maps, or made of them.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images: for pictures and background.")
    ] = None,
    tags: Annotated[
        Path | None, typer.Option(help="Tags of each image: .csv, .json, .npy, or VOC boxes.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another model's folder, of the same kind, to compare.")
    ] = None,
    mended: Annotated[
        Path | None, typer.Option(help="Folder of mended masks: before and after in the report.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Background included.  [default: 2]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names in label order, a,b,c, or a file of them.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of binary maps: foreground where p > threshold.")
    ] = None,
    ignore_index: Annotated[int, typer.Option(help="Mask value of ignored pixels.")] = 255,
    partial: Annotated[
        bool, typer.Option("--partial", help="Pass over files without a partner.")
    ] = False,
    recipe: RECIPE = None,
    set_: SETS = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Find out what is systematically wrong with masks, and what mending it would gain.

    The images must be ones that the model was not trained on. Nothing is changed but OUT.
    """
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.diagnose.options import DiagnoseOptions

    options = resolve(DiagnoseOptions, recipe, set_ or [], {"threshold": threshold})
    print_settings(options)
    folders = {"masks": masks, "probs": probs, "pred": pred, "images": images, "tags": tags}
    folders |= {"against": against, "mended": mended}
    inputs = {
        **folders,
        "num_classes": num_classes,
        "classes": _names(classes),
        "ignore_index": ignore_index,
        "partial": partial,
    }
    _refuse_out(out, folders)
    found = _diagnose_all(inputs, options, progress=progress)
    _write(out, found)
    # Whole paths: `segmend report serve` finds the files again from anywhere.
    whole = {role: path and path.resolve() for role, path in folders.items()}
    write_run_record(out, "diagnose", options, {"inputs": {**inputs, **whole}})
    show(found["report"])
    typer.echo(f"\nreport: {out / 'report.html'}")


def _names(classes: str | None) -> list[str] | None:
    from segmend.data.tag_table import tag_classes

    if classes is None:
        return None
    is_file = Path(classes).is_file()
    parts = [part.strip() for part in classes.split(",")]
    return list(tag_classes(Path(classes) if is_file else parts))


def _refuse_out(out: Path, folders: Mapping[str, Path | None]) -> None:
    from segmend.errors import SegmendError

    if any(path is not None and path.resolve() == out.resolve() for path in folders.values()):
        raise SegmendError(f"--out {out}: is a folder of inputs; choose another for the report")
    if out.exists() and not out.is_dir():  # said before the work, not after it
        raise SegmendError(f"--out {out}: is a file; want a folder for the report")


def _diagnose_all(
    inputs: dict[str, Any], options: DiagnoseOptions, *, progress: bool
) -> dict[str, Diagnosis]:
    """By the name of its file: the report, and what it is compared with, where asked for."""
    from segmend.diagnose import diagnose as run

    def look(probs: Path | None, pred: Path | None, tags: Path | None) -> Diagnosis:
        return run(
            probs,
            inputs["masks"],
            pred=pred,
            images=inputs["images"],
            tags=tags,
            classes=inputs["classes"],
            num_classes=inputs["num_classes"],
            ignore_index=inputs["ignore_index"],
            partial=inputs["partial"],
            options=options,
            progress=progress,
        )

    found = {"report": look(inputs["probs"], inputs["pred"], inputs["tags"])}
    other = inputs["against"]
    if other is not None:
        by_maps = inputs["probs"] is not None
        found["against"] = look(
            other if by_maps else None, None if by_maps else other, inputs["tags"]
        )
    if inputs["mended"] is not None:
        found["mended"] = look(None, inputs["mended"], None)
    return found


def _write(out: Path, found: dict[str, Diagnosis]) -> None:
    from segmend.diagnose.save import save

    base, against, mended = found["report"], found.get("against"), found.get("mended")
    save(base, out / "report.html", against=against, mended=mended)
    save(base, out / "images.csv")
    for name, diagnosis in found.items():
        save(diagnosis, out / f"{name}.json")


def show(diagnosis: Diagnosis) -> None:
    """Print the fixes, the verdict, and what to run next."""
    from rich.console import Console
    from rich.text import Text

    from segmend.diagnose.report.words import chances

    console = Console(highlight=False)
    console.print(_table(diagnosis))
    console.print(Text(diagnosis.verdict.headline, style="bold"))
    if diagnosis.verdict.advice:
        console.print(Text(diagnosis.verdict.advice))
    for advice in diagnosis.verdict.recommendations:
        gist, rest = chances(advice, diagnosis.setting.measure)
        console.print(Text(f"\n{advice.title}. {gist} {rest}"))
        # Not through the console: it would break a long command into lines.
        typer.echo(f"  next: {advice.command}")


def _table(diagnosis: Diagnosis) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    setting, score = diagnosis.setting, diagnosis.score
    table = Table(
        title=Text(
            f"{setting.num_images} images, {setting.measure} {100 * score.pooled:.1f} "
            f"[{100 * score.low:.1f}, {100 * score.high:.1f}]"
        ),
        title_justify="left",
        caption=f"points of pooled {setting.measure} won if just this were mended",
        caption_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("fix")
    for heading in ("gain", "95% interval", "by chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = sorted(diagnosis.fixes, key=_excess, reverse=True)[:SHOWN]
    for fix in best:
        chance = "" if fix.chance is None else f"{100 * fix.chance:+.1f}"
        limits = f"[{100 * fix.low:+.1f}, {100 * fix.high:+.1f}]"
        table.add_row(Text(fix.title), f"{100 * fix.gain:+.1f}", Text(limits), chance)
    return table


def _excess(fix: Fix) -> float:
    return fix.gain - (fix.chance or 0.0)
