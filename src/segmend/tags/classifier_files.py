"""A trained tag classifier on disk: weights, how to build it, and what its channels mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segmend.data.files import write_json
from segmend.engine.checkpoints import load_segmenter
from segmend.errors import SegmendError
from segmend.tags.network import ClassifierSpec, TagClassifier, build_classifier

FILE = "classifier.json"
TAGGER = "tagger"
"""Folder, inside a run, of the second network that only tells tags, if there is one."""


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier in evaluation mode and the names of its classes, background included if any."""

    model: TagClassifier
    classes: tuple[str, ...]
    background: int | None


def describe_classifier(
    folder: Path, spec: ClassifierSpec, classes: Sequence[str], background: int | None
) -> None:
    """Write what `load_classifier` needs beside the weights."""
    content = {"network": asdict(spec), "classes": list(classes), "background": background}
    write_json(folder / FILE, content)


def load_classifier(folder: str | Path) -> LoadedClassifier:
    """Read a classifier that `segmend tags train` wrote. Nothing is unpickled.

    Raises:
        SegmendError: a missing, truncated or foreign file (named), or weights that do not fit.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        spec = ClassifierSpec(**content["network"])
        classes, background = tuple(content["classes"]), content["background"]
    except FileNotFoundError as error:
        raise SegmendError(
            f"{path}: not found; want the folder that `segmend tags train` wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmendError(f"{path}: not the description of a tag classifier: {error}") from error
    if spec.num_classes != len(classes) - (background is not None):
        raise SegmendError(f"{path}: {len(classes)} classes do not go with {spec.num_classes} maps")
    model = build_classifier(
        spec.backbone,
        num_classes=spec.num_classes,
        output_stride=spec.output_stride,
        weights="none",
        method=spec.method,
    )
    load_segmenter(folder, model=model)
    return LoadedClassifier(model.eval(), classes, background)
