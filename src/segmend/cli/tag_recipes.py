"""Recipes with a section for each stage of `segmend tags`, read by one stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from segmend.cli.settings import read_recipe, resolve

Options = TypeVar("Options", bound=BaseModel)


def resolve_stage(
    stage: str,
    options_class: type[Options],
    recipe: Path | None,
    sets: Sequence[str],
    overrides: Mapping[str, object] | None = None,
) -> Options:
    """One stage's settings, from its section of a recipe, or from one that has no sections.

    Arguments and errors: `resolve`. A recipe that leaves the stage out gives its defaults.
    """
    from segmend.cli.run_options import RunOptions

    if recipe is None or not has_sections(read_recipe(recipe)[1]):
        return resolve(options_class, recipe, sets, overrides)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    options = resolve(RunOptions, recipe, [f"{stage}.{text}" for text in sets], {stage: given})
    found = options.of(stage)
    return found if isinstance(found, options_class) else resolve(options_class)


def has_sections(content: Mapping[str, object]) -> bool:
    """Whether a recipe's keys are names of stages."""
    from segmend.cli.run_options import RunOptions

    return bool(content) and set(content) <= set(RunOptions.model_fields)
