"""What runs have found, small enough to keep: tables are made again without training again.

A record is a dict of tensors, numbers and texts; it is written once, whole or not at all.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "records"
SUFFIX = ".pt.gz"


def keep_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record; `path` ends in `SUFFIX`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    with gzip.GzipFile(temporary, "wb", mtime=0) as file:  # the same content, the same bytes
        torch.save(content, file)
    os.replace(temporary, path)


def read_record(path: Path) -> Any:
    """The content of a record."""
    with gzip.open(path, "rb") as file:
        return torch.load(file, weights_only=True)


def stem_of(path: Path) -> str:
    """A record's name without its ending."""
    return path.name.removesuffix(SUFFIX)
