"""How a benchmark script hands over what it measured: one JSON file, the same shape for all."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

Cell = str | int | float | bool | None


def machine() -> str:
    """This machine in one line: processor, cores, memory, versions, other work; no names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_processor(), f"{cores} cores", _memory(), platform.system()]
    parts += [f"Python {platform.python_version()}", f"torch {version('torch')}"]
    if hasattr(os, "getloadavg"):
        parts.append(f"load average {os.getloadavg()[1]:.1f}")
    return ", ".join(part for part in parts if part)


def write_outcome(
    out: Path,
    *,
    name: str,
    command: str,
    rows: Sequence[dict[str, Cell]],
    notes: Sequence[str] = (),
    measured: bool = True,
) -> None:
    """Write a benchmark's outcome; `rows` all have the same columns, `command` repeats it.

    Not `measured`: put together from other outcomes, so that this machine has no part in it.
    """
    outcome = {
        "name": name,
        "command": command,
        **({"machine": machine()} if measured else {}),
        "rows": list(rows),
        "notes": list(notes),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return ""
    return f"{pages / 2**30:.0f} GiB"
