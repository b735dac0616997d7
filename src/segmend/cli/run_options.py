"""Settings of `segmend tags run`, a section a stage. Imported only when a run is at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from segmend.cli.settings import read_recipe, resolve
from segmend.cli.tag_recipes import has_sections
from segmend.rectify.decoders import DEEPLABS
from segmend.rectify.options import RectifyOptions, RectifyPredictOptions
from segmend.tags.dense_crf import CrfName
from segmend.tags.options import TagOptions
from segmend.tags.pipeline import PipelineOptions

_SEEDED = ("affinity", "starter", "segmenter")


class SegmenterOptions(RectifyOptions):
    """Settings of the segmenter that learns from the pseudo-masks."""

    start_from: Literal["maps", "weights"] = Field(
        "maps",
        description="maps: the starter's, or without one the classifier's network and its maps.",
    )


class SegmenterPredictOptions(RectifyPredictOptions):
    """Settings of the segmenter's predictions."""

    crf: Literal["none", CrfName] = Field("none", description="Dense CRF in the end.")
    tags_from: Literal["gate", "classifier"] = Field(
        "gate", description="Who tells the tags to mask by, where `masking` asks for it."
    )
    train: bool = Field(True, description="Also the training images, where they can be scored.")


class RunOptions(PipelineOptions):
    """All stages: those of `PipelineOptions`, then a segmenter on their masks if it is given.

    starter: a tag classifier of the segmenter's own backbone for it to start from, where the one
    that drew the maps has another.
    """

    starter: TagOptions | None = None
    segmenter: SegmenterOptions | None = None
    predict: SegmenterPredictOptions = Field(default_factory=SegmenterPredictOptions)

    def stages(self) -> dict[str, BaseModel | None]:
        """All stages in their order; None is left out."""
        predict = None if self.segmenter is None else self.predict
        later = {"starter": self.starter, "segmenter": self.segmenter, "predict": predict}
        return {**super().stages(), **later}

    @model_validator(mode="after")
    def _consistent(self) -> RunOptions:
        found = self.segmenter
        if self.starter is not None and (found is None or found.start_from == "weights"):
            raise ValueError("starter: is for a segmenter that starts from maps; there is none")
        if found is None or found.start_from == "weights":
            return self
        name, source = ("starter", self.starter) if self.starter else ("train", self.train)
        encoder = found.encoder.removeprefix("tu-")
        fits = source.backbone == encoder and source.output_stride == 8
        if not fits or found.architecture not in DEEPLABS or source.method.startswith("mctformer"):
            raise ValueError(
                f"segmenter: {found.architecture} on {found.encoder} cannot start from the maps of "
                f"{name} ({source.method} on {source.backbone} at stride {source.output_stride}): "
                f"want {' or '.join(DEEPLABS)} on the same backbone at stride 8; say "
                "segmenter.start_from=weights, or give a starter with "
                f"starter.backbone={encoder}"
            )
        return self


def resolve_run(
    recipe: Path | None,
    sets: Sequence[str],
    *,
    segmenter: Path | None = None,
    epochs: int | None = None,
    seed: int | None = None,
) -> RunOptions:
    """All stages' settings; a recipe without sections is one for the classifier's training.

    Args:
        sets: `stage.key=value` texts.
        segmenter: recipe for the segmenter alone, such as "rectify"; lies over the other one.
        epochs: of the classifier's training.
        seed: of all that is random.
    Raises:
        SegmendError: as in `resolve`.
    """
    texts = [*(_texts("segmenter", segmenter) if segmenter is not None else []), *sets]
    train: dict[str, Any] = {"epochs": epochs, "seed": seed}
    train = {key: value for key, value in train.items() if value is not None}
    content = {} if recipe is None else read_recipe(recipe)[1]
    if recipe is not None and content and not has_sections(content):
        options = resolve(RunOptions, None, [*_texts("train", recipe), *texts], {"train": train})
    else:
        options = resolve(RunOptions, recipe, texts, {"train": train})
    if seed is None:
        return options
    sections = {name: getattr(options, name) for name in _SEEDED}
    changed = {
        name: section.model_copy(update={"seed": seed})
        for name, section in sections.items()
        if section is not None
    }
    return options.model_copy(update=changed)


def _texts(section: str, recipe: Path) -> list[str]:
    """A recipe without sections as settings of one section."""
    content = read_recipe(recipe)[1]
    return [
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in content.items()
    ]
