"""Segmenters on disk: weights as safetensors, everything else as JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segmend.data.files import atomic_write, write_json
from segmend.errors import SegmendError, reason_of
from segmend.models.segmenters import Segmenter, build_segmenter, spec_as_dict

WEIGHTS_NAME = "model.safetensors"
FORMAT = "segmend-segmenter-1"
PACKAGES = ("segmend", "torch", "torchvision", "timm", "segmentation-models-pytorch")


def save_segmenter(
    path: str | Path, model: nn.Module, meta: Mapping[str, object] | None = None
) -> Path:
    """Write a model's weights and what is needed to build it again.

    Args:
        path: a folder (`model.safetensors` and `model.json` in it) or a `.safetensors` file
            (`.json` beside it).
        model: a `Segmenter` describes itself; any other module can be saved too, but
            `load_segmenter` then needs a module to load the weights into.
        meta: more facts for the JSON file, such as options and metrics.
    Returns:
        The path of the weights.
    """
    from safetensors.torch import save

    weights = _weights_path(Path(path))
    sidecar = weights.with_suffix(".json")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _state_of(model).items()}
    spec = model.spec if isinstance(model, Segmenter) else None
    content: dict[str, object] = {
        "format": FORMAT,
        "model": spec_as_dict(spec) if spec else None,
        **(dict(meta) if meta else {}),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    with atomic_write(weights) as temporary:
        # Not save_file: it leaves a file that only its owner can read.
        temporary.write_bytes(save(state, metadata={"format": "pt"}))
    write_json(sidecar, content)
    return weights


def load_segmenter(
    path: str | Path, *, model: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Read what `save_segmenter` wrote. Nothing is unpickled.

    Args:
        path: the folder or the `.safetensors` file.
        model: a module to load the weights into; needed only where the saved model was not made
            by `build_segmenter`.
    Returns:
        The model in evaluation mode, on the CPU, and the content of the JSON file.
    Raises:
        SegmendError: a missing, truncated or foreign file (named), or weights that do not fit.
    """
    weights = _weights_path(Path(path))
    meta = _read_meta(weights.with_suffix(".json"))
    state = _read_weights(weights)
    if model is None:
        model = _build(weights.with_suffix(".json"), meta)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = reason_of(error, 400)
        raise SegmendError(f"{weights}: the weights do not fit the model: {reason}") from error
    return model.eval(), meta


def _weights_path(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / WEIGHTS_NAME


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """The state, each tensor with memory of its own: safetensors refuses shared memory."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        pointer = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return state


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SegmendError(
            f"{path}: not found; want the folder that `segmend train` wrote, with "
            f"{WEIGHTS_NAME} and model.json in it"
        ) from error
    except (OSError, ValueError) as error:
        raise SegmendError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise SegmendError(f"{path}: want a file of format {FORMAT!r}, found {found!r}")
    return meta


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise SegmendError(f"{path}: not readable as safetensors: {error}") from error


def _build(path: Path, meta: Mapping[str, Any]) -> nn.Module:
    spec = meta.get("model")
    if spec is None:
        raise SegmendError(
            f"{path}: does not say how to build the model (it was not made by build_segmenter); "
            "pass the module: load_segmenter(path, model=...)"
        )
    try:
        architecture, encoder = str(spec["architecture"]), str(spec["encoder"])
        num_classes = int(spec["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise SegmendError(
            f"{path}: 'model' wants architecture, encoder and num_classes, found {spec!r}"
        ) from error
    return build_segmenter(architecture, encoder=encoder, num_classes=num_classes, weights="none")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
