"""Recipes with a section for each stage of `segmend tags`, read by one stage or by all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from segmend.cli.settings import _read_recipe, resolve

if TYPE_CHECKING:
    from segmend.tags.pipeline import PipelineOptions, Stage

Options = TypeVar("Options", bound=BaseModel)


def resolve_stage(
    stage: Stage,
    options_class: type[Options],
    recipe: Path | None,
    sets: Sequence[str],
    overrides: Mapping[str, object] | None = None,
) -> Options:
    """One stage's settings, from its section of a recipe, or from one that has no sections.

    Arguments and errors: `resolve`. A recipe that leaves the stage out gives its defaults.
    """
    from segmend.tags.pipeline import PipelineOptions

    if recipe is None or not has_sections(_read_recipe(recipe)[1]):
        return resolve(options_class, recipe, sets, overrides)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    options = resolve(PipelineOptions, recipe, [f"{stage}.{text}" for text in sets], {stage: given})
    found = options.of(stage)
    return found if isinstance(found, options_class) else resolve(options_class)


def resolve_pipeline(
    recipe: Path | None, sets: Sequence[str], *, epochs: int | None, seed: int | None
) -> PipelineOptions:
    """All stages' settings; a recipe without sections is one for the training.

    Args:
        sets: `stage.key=value` texts.
        epochs: of the classifier's training.
        seed: of all that is random.
    """
    from segmend.tags.pipeline import PipelineOptions

    train: dict[str, Any] = {"epochs": epochs, "seed": seed}
    train = {key: value for key, value in train.items() if value is not None}
    content = {} if recipe is None else _read_recipe(recipe)[1]
    if content and not has_sections(content):
        options = resolve(PipelineOptions, None, sets, {"train": {**content, **train}})
    else:
        options = resolve(PipelineOptions, recipe, sets, {"train": train})
    if seed is None or options.affinity is None:
        return options
    affinity = options.affinity.model_copy(update={"seed": seed})
    return options.model_copy(update={"affinity": affinity})


def has_sections(content: Mapping[str, object]) -> bool:
    """Whether a recipe's keys are names of stages."""
    from segmend.tags.pipeline import STAGES

    return bool(content) and set(content) <= set(STAGES)
