"""Progress bars: what is being done, how far, how fast, and how long it still takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where that is more than one."""

    def render(self, task: Task) -> Text:
        return Text(rate(task.finished_speed or task.speed), style="progress.data.speed")


def rate(per_second: float | None) -> str:
    """A speed that reads well: "12.3/s", "4.1 s each", or "" where it is not known yet."""
    if not per_second:
        return ""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


class Bar:
    """A running bar; `advance` moves it, `note` says more behind its description."""

    def __init__(self, description: str, total: int | None, console: Console | None) -> None:
        self.description = description
        self.done = 0
        self.total = total
        self._started = monotonic()
        self._console = console
        self._live: Progress | None = None
        if console is not None and console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=False,
            )
            self._task = self._live.add_task(description, total=total)
            self._live.start()

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self._live is not None:
            self._live.update(self._task, advance=steps)

    def note(self, text: str) -> None:
        if self._live is not None:
            self._live.update(self._task, description=f"{self.description} · {text}")
        elif self._console is not None:
            self._console.print(f"{self.description}: {text}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._console is not None:
            seconds = monotonic() - self._started
            total = "" if self.total is None else f"/{self.total}"
            speed = rate(self.done / seconds if seconds > 0 else None)
            self._console.print(
                f"{self.description}: {self.done}{total} in {seconds:.1f} s, {speed}".rstrip(", "),
                highlight=False,
                soft_wrap=True,
            )


@contextmanager
def progress_bar(
    description: str, *, total: int | None = None, enabled: bool = True
) -> Iterator[Bar]:
    """A bar on stderr; without a terminal one line per note and one at the end.

    Args:
        description: what is being done.
        total: number of steps, None where unknown.
        enabled: False prints nothing.
    """
    bar = Bar(description, total, Console(stderr=True) if enabled else None)
    try:
        yield bar
    finally:
        bar.close()


def track(
    iterable: Iterable[Item], *, description: str, total: int | None = None, enabled: bool = True
) -> Iterator[Item]:
    """Go through `iterable` behind a progress bar; arguments as in `progress_bar`."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with progress_bar(description, total=total, enabled=enabled) as bar:
        for item in iterable:
            yield item
            bar.advance()
