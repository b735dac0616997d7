"""`segmend report`: open a report from a small server on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmend.errors import SegmendError

if TYPE_CHECKING:
    from segmend.diagnose.case import CaseSet
    from segmend.diagnose.result import Diagnosis


def serve(
    report: Annotated[
        Path, typer.Argument(help="Folder that `segmend diagnose` wrote, or its report.json.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Show it in the browser of this desktop.")
    ] = True,
) -> None:
    """Show a report with pages of rows and pictures read on demand: for very large sets.

    The server listens on this machine alone (127.0.0.1) and ends with Ctrl-C. Pictures are read
    from the folders that were diagnosed, if they are where they were.
    """
    from segmend.diagnose.report.serve import ReportServer, Site

    found = load_report(report)
    site = Site(found["report"], against=found.get("against"), mended=found.get("mended"))
    with ReportServer(site, port=port) as server:
        typer.echo(f"report of {len(found['report'].images)} images: {server.address}")
        typer.echo("Ctrl-C ends the server")
        if open_ and _has_desktop():
            import webbrowser

            webbrowser.open(server.address)
        server.serve_forever()


def load_report(path: Path) -> dict[str, Diagnosis]:
    """What `segmend diagnose` wrote, by name, with its cases where their files are still there.

    Raises:
        SegmendError: no report there, or a file that cannot be read.
    """
    from dataclasses import replace

    from segmend.diagnose.save import load

    main = path / "report.json" if path.is_dir() else path
    if not main.is_file():
        raise SegmendError(f"{main}: no such file; want what `segmend diagnose --out DIR` wrote")
    found = {"report": load(main)}
    inputs = _inputs(main.parent / "run.json")
    for name in ("against", "mended"):
        if (main.parent / f"{name}.json").is_file() and inputs.get(name):
            found[name] = load(main.parent / f"{name}.json")
    for name, diagnosis in found.items():
        cases = _reopen(diagnosis, inputs, name)
        found[name] = replace(diagnosis, cases=cases)
    return found


def _inputs(record: Path) -> dict[str, Any]:
    import json

    try:
        inputs = json.loads(record.read_text("utf-8"))["inputs"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return inputs if isinstance(inputs, dict) else {}


def _reopen(diagnosis: Diagnosis, inputs: dict[str, Any], name: str) -> CaseSet | None:
    """The cases that a diagnosis is of; None, and a line that says why, where they are gone."""
    from segmend.diagnose.entry import open_folders
    from segmend.diagnose.report.gallery import case_names

    roles = {role: inputs.get(role) for role in ("probs", "pred", "images")}
    if name == "mended":
        roles |= {"probs": None, "pred": inputs["mended"]}
    elif name == "against":
        role = "probs" if roles["probs"] else "pred"
        roles |= {"probs": None, "pred": None, role: inputs["against"]}
    try:
        cases = open_folders(
            inputs["masks"],
            probs=roles["probs"],
            pred=roles["pred"],
            images=roles["images"],
            num_classes=len(diagnosis.setting.classes),
            ignore_index=inputs.get("ignore_index", 255),
            threshold=diagnosis.setting.threshold,
            partial=inputs.get("partial", False),
        )
        if case_names(cases) != [row.name for row in diagnosis.images]:
            raise SegmendError("the folders hold other files than were diagnosed")
    except (SegmendError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, SegmendError) else "no run.json"
        typer.echo(f"no pictures: {reason}", err=True)
        return None
    return cases


def _has_desktop() -> bool:
    """Without one, a browser would open in this terminal, if at all."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
