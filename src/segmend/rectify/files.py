"""A rectified segmenter on disk, and the start from a tag classifier's file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segmend.data.files import write_json
from segmend.engine.checkpoints import WEIGHTS_NAME, load_segmenter
from segmend.errors import SegmendError, reason_of
from segmend.rectify.decoders import DeepLab
from segmend.rectify.network import RectifiedSegmenter, RectifiedSpec, build_rectified

FILE = "rectified.json"


@dataclass(frozen=True)
class LoadedRectified:
    """A segmenter in evaluation mode and the names of its classes, background included if any."""

    model: RectifiedSegmenter
    classes: tuple[str, ...]


def describe_rectified(folder: Path, model: RectifiedSegmenter, classes: Sequence[str]) -> None:
    """Write what `load_rectified` needs beside the weights."""
    strength = None if model.gate is None else model.gate.strength
    network = {**asdict(model.spec), "gate_strength": strength}
    write_json(folder / FILE, {"network": network, "classes": list(classes)})


def load_rectified(folder: str | Path) -> LoadedRectified:
    """Read what `train_rectified` wrote. Nothing is unpickled.

    Raises:
        SegmendError: a missing, truncated or foreign file (named), or weights that do not fit.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        network = dict(content["network"])
        strength = network.pop("gate_strength")
        spec = RectifiedSpec(**network)
        classes = tuple(str(name) for name in content["classes"])
    except FileNotFoundError as error:
        raise SegmendError(
            f"{path}: not found; want the folder that training with --rectify wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmendError(f"{path}: not the description of a segmenter: {error}") from error
    model = build_rectified(
        spec, weights="none", gate_strength=1.0 if strength is None else strength
    )
    load_segmenter(folder, model=model)
    return LoadedRectified(model.eval(), classes)


def start_from_classifier(
    model: RectifiedSegmenter, folder: str | Path, *, classes: Sequence[str]
) -> None:
    """Take backbone, class logits and tag logits from a run of `segmend tags train`.

    Raises:
        SegmendError: a file missing or broken, other classes, another backbone.
    """
    path = Path(folder) / "classifier.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        network, names = content["network"], tuple(content["classes"])
        found = f"{network['backbone']} at stride {network['output_stride']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmendError(
            f"{path}: cannot be read ({error}); want the folder that `segmend tags train` wrote"
        ) from error
    if names != tuple(classes):
        raise SegmendError(
            f"{path}: trained on classes {list(names)}, the data has {list(classes)}"
        )
    if not isinstance(model.trunk, DeepLab):
        raise SegmendError(
            f"{path}: a start from maps wants architecture deeplabv1 or deeplabv2, got "
            f"{model.spec.architecture}"
        )
    state = _weights(Path(folder) / WEIGHTS_NAME)
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    try:
        model.trunk.backbone.load_state_dict(backbone)
    except RuntimeError as error:
        reason = reason_of(error, 200)
        raise SegmendError(
            f"{path}: its backbone, {found}, is not the segmenter's, {model.spec.encoder} at "
            f"stride {model.trunk.multiple}: {reason}"
        ) from error
    model.start_from_maps(state["head.weight"])


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SegmendError(f"{path}: not readable as safetensors: {error}") from error
    if "head.weight" not in state:
        raise SegmendError(f"{path}: has no head.weight; want the weights of a tag classifier")
    return state
