"""Options that stand in many commands, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RECIPE = Annotated[
    Path | None, typer.Option(help="YAML file, a run.json, or the name of a bundled recipe.")
]
SETS = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")
]
