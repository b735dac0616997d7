"""Times of several ways of doing the same thing, taken in turn: all meet the same machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn


def fastest(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Milliseconds of the fastest of `repeats` runs of each, in turn, after one to warm up.

    In turn, so that other work on the machine meets all of them alike. With
    `clock=time.thread_time` it is this thread's processor time, which other work does not lengthen.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: 1e3 * min(each[1:]) for name, each in times.items()}


def finish(missed: Sequence[str]) -> NoReturn:
    """Say which goals were missed, and exit with 1 if there are any."""
    for goal in missed:
        print(f"missed: {goal}", file=sys.stderr)
    sys.exit(1 if missed else 0)
