"""The `segmend` command: one table of commands, each in a file of its own.

A command's module is imported only when it is called, so that `segmend --help` answers at once
and never imports PyTorch.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

import segmend
from segmend.errors import SegmendError, SegmendWarning

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

HELP = "Find what is systematically wrong with a segmentation model's masks, and mend it."

GROUPS = {
    "data": "Make, fetch or check data.",
    "refine": "PatchRefineNet: mend a model's probability maps after training.",
    "tags": "HFPL: masks from image tags, without one mask to learn from.",
    "context": "CoLab: several classes of background, against over-segmentation.",
    "report": "Reports that `segmend diagnose` wrote.",
}

# What is typed -> where it lives ("module:function"), and its line in `--help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "segmend.cli.demo:demo",
        "Mend a real model's masks on bundled images; show the gain and pictures.",
    ),
    "diagnose": (
        "segmend.cli.diagnose:diagnose",
        "Find what is systematically wrong with masks, and what mending it would gain.",
    ),
    "report serve": (
        "segmend.cli.report:serve",
        "Show a report of very many images, read on demand.",
    ),
    "train": (
        "segmend.cli.train:train",
        "Train a segmenter; --folds, --context and --rectify change how.",
    ),
    "predict": ("segmend.cli.predict:predict", "Write probability maps of a folder of images."),
    "refine fit": (
        "segmend.cli.refine:fit",
        "Learn where a model's probability maps are wrong.",
    ),
    "refine apply": ("segmend.cli.refine:apply", "Mend a folder of probability maps."),
    "refine import": (
        "segmend.cli.refine:import_",
        "Convert a state dict of the original PatchRefineNet code.",
    ),
    "tags train": (
        "segmend.cli.tags:train",
        "Train a tag classifier whose activation maps become masks.",
    ),
    "tags cams": ("segmend.cli.tags:cams", "Draw the activation maps of a folder of images."),
    "tags affinity": (
        "segmend.cli.tags:affinity",
        "Learn from maps which pixels belong together (AffinityNet, IRN).",
    ),
    "tags masks": ("segmend.cli.tags:masks", "Turn activation maps into pseudo-masks."),
    "tags evaluate": (
        "segmend.cli.tags:evaluate",
        "Score activation maps or pseudo-masks against true masks.",
    ),
    "tags run": ("segmend.cli.tags_run:run", "All stages, from tags to pseudo-masks."),
    "context compare": (
        "segmend.cli.context:compare",
        "Train with and without context labels; say how sure the difference is.",
    ),
    "evaluate": (
        "segmend.cli.evaluate:evaluate",
        "Score predictions against masks; with --against, paired intervals.",
    ),
    "export": ("segmend.cli.export:export", "Write a model or refiner as ONNX."),
    "data scenes": ("segmend.cli.data:scenes", "Write procedural images, masks and tags."),
    "data check": ("segmend.cli.data:check", "List what is wrong with a data set, file by file."),
    "data get": ("segmend.cli.data:get", "Download VOC 2012, SBD or COCO, verified."),
    "data sbd": ("segmend.cli.data_sbd:sbd", "Add SBD's masks to VOC 2012: its augmented split."),
    "bench": ("segmend.cli.bench:bench", "Measure this project's claims on this machine."),
}


@dataclass
class Switches:
    """Options given before the command."""

    debug: bool = False


def guarded(function: Callable[..., Any], switches: Switches) -> Callable[..., Any]:
    """Bad input, Ctrl-C and our warnings become one line on stderr; the first two also a status."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with _warnings_on_one_line():
                return function(*args, **kwargs)
        except SegmendError as error:
            if switches.debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except KeyboardInterrupt as error:
            typer.echo(
                "\ninterrupted: finished files are kept; run the same command again to go on.",
                err=True,
            )
            raise typer.Exit(EXIT_INTERRUPTED) from error

    return call


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Our own warnings without the place in the code that they come from; the rest as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_ours(message: Warning | str, *where: Any, **more: Any) -> None:
            if isinstance(message, SegmendWarning):
                typer.echo(f"warning: {message}", err=True)
            else:
                show(message, *where, **more)

        warnings.showwarning = show_ours
        yield


def load(target: str) -> Callable[..., Any]:
    """The function behind "module:function"."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _not_loaded() -> None:
    raise AssertionError("a command must be loaded before it is called")


def build_app(wanted: Collection[str] | None = None) -> typer.Typer:
    """The typer application.

    Args:
        wanted: words of the command line; only commands among them are imported, the others
            stand in the list with their help line alone. None imports all.
    """
    switches = Switches()
    look = {
        "no_args_is_help": True,
        "pretty_exceptions_enable": False,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    app = typer.Typer(name="segmend", help=HELP, **look)  # type: ignore[arg-type]
    app.callback()(_global_options(switches))
    homes = {name: typer.Typer(help=text, **look) for name, text in GROUPS.items()}  # type: ignore[arg-type]
    for path, (target, line) in COMMANDS.items():
        group, _, name = path.rpartition(" ")
        needed = wanted is None or name in wanted
        function = guarded(load(target), switches) if needed else _not_loaded
        (homes[group] if group else app).command(name, short_help=line)(function)
    for name, home in homes.items():
        app.add_typer(home, name=name)
    return app


def _global_options(switches: Switches) -> Callable[..., None]:
    def options(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
        debug: bool = typer.Option(False, "--debug", help="Show tracebacks of errors."),
    ) -> None:
        switches.debug = debug

    return options


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"segmend {segmend.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script; exits 0, 2 for bad input, 130 when interrupted."""
    completing = "_SEGMEND_COMPLETE" in os.environ
    build_app(None if completing else sys.argv[1:])()


if __name__ == "__main__":
    main()
