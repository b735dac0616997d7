"""What is needed to repeat a run, written beside its results."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import segmend


def write_run_record(
    out: Path,
    command: str,
    settings: BaseModel | Mapping[str, object],
    extra: Mapping[str, object] | None = None,
) -> Path:
    """Write what is needed to repeat a run beside its results.

    Args:
        out: the results' folder (the record is `run.json` in it) or file (`<name>.run.json`
            beside it).
        command: the command's name, such as "refine fit".
        settings: what `resolve` gave; `--recipe run.json` reads it back.
        extra: more facts that can be written as JSON, such as the inputs.
    Returns:
        The record's path.
    """
    from segmend.data.files import atomic_write

    plain = as_plain(settings)
    record = {
        "command": command,
        "argv": sys.argv[1:],
        "seed": plain.get("seed"),
        "settings": plain,
        **(as_plain(extra) if extra else {}),
        "versions": {
            "segmend": segmend.__version__,
            "torch": _version_of("torch"),
            "python": platform.python_version(),
        },
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    is_folder = out.is_dir() or not out.suffix
    path = out / "run.json" if is_folder else out.with_name(f"{out.name}.run.json")
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return path


def as_plain(settings: BaseModel | Mapping[str, object]) -> dict[str, Any]:
    """Settings as numbers, texts, lists and dicts only."""
    if isinstance(settings, BaseModel):
        return settings.model_dump(mode="json")
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=_plain_value))
    return plain


def _plain_value(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
