"""Reading weights saved by the original code of PatchRefineNet, the released ones first."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from segmend.errors import SegmendError
from segmend.refine.network import PatchRefineNet, Variant

# Our prefix (a regular expression) -> the prefix in the original's file; read top down.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.pyramid\.priors\.(\d)\.", r"encoding.psp.stages.\1.1."),
    (r"^encoder\.pyramid\.mix\.", "encoding.psp.bottleneck."),
    (r"^encoder\.stages\.0\.", "encoding.RRCNN1."),
    (r"^encoder\.stages\.1\.", "encoding.RRCNN2."),
    (r"^encoder\.stages\.2\.", "encoding.RRCNN3."),
    (r"^encoder\.stages\.3\.", "encoding.RRCNN4."),
    (r"^(global|local)_decoder\.stages\.0\.", r"decode3_\1."),
    (r"^(global|local)_decoder\.stages\.1\.", r"decode2_\1."),
    (r"^(global|local)_decoder\.stages\.2\.", r"decode1_\1."),
    (r"\.project\.", ".Conv_1x1."),
    (r"\.first\.unit\.conv\.", ".RCNN.0.conv.0."),
    (r"\.first\.unit\.norm\.", ".RCNN.0.conv.1."),
    (r"\.second\.unit\.conv\.", ".RCNN.1.conv.0."),
    (r"\.second\.unit\.norm\.", ".RCNN.1.conv.1."),
    (r"\.up\.conv\.", ".Up.up.1."),
    (r"\.up\.norm\.", ".Up.up.2."),
    (r"\.gate\.from_decoder\.conv\.", ".Attn.W_g.0."),
    (r"\.gate\.from_decoder\.norm\.", ".Attn.W_g.1."),
    (r"\.gate\.from_skip\.conv\.", ".Attn.W_x.0."),
    (r"\.gate\.from_skip\.norm\.", ".Attn.W_x.1."),
    (r"\.gate\.score\.conv\.", ".Attn.psi.0."),
    (r"\.gate\.score\.norm\.", ".Attn.psi.1."),
    (r"\.block\.", ".Up_Conv."),
)
_HEADS: dict[Variant, str] = {
    "P0": r"out_\1.0.",
    "P4": r"conv_last_\1.0.",
    "P64": r"out_\1.0.",
}


def reference_name(name: str, variant: Variant) -> str:
    """The original's name of the tensor that our PatchRefineNet calls `name`."""
    name = re.sub(r"^(global|local)_decoder\.head\.", _HEADS[variant], name)
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def import_reference(
    path: str | PathLike[str],
    *,
    batch_statistics: bool = True,
    reference_row_bug: bool = False,
) -> PatchRefineNet:
    """Load a state dict saved by the original code into a PatchRefineNet, in eval mode.

    The file is read with `weights_only=True` and nothing else: no code in it can run. It holds a
    dict of tensors, or such a dict under "state_dict" or "model"; a leading `module.` of names is
    dropped. The variant is recognised by the names. Every tensor must be there (338, or 204 for
    P0), none too many, each with its shape and type, all values finite.

    Args:
        path: the file, for example the `p64_weights.th` of the released archives, unpacked.
        batch_statistics, reference_row_bug: options of PatchRefineNet. The original's prediction
            script ran with both; the released scores were presumably made that way. Statistics
            are each image's own by default, since the original learned from one map at a time.

    Raises:
        SegmendError: names the file, and the tensor where one is wrong.
    """
    path = Path(path)
    tensors = _tensors(path, _load(path))
    variant = _variant(path, tensors)
    network = PatchRefineNet(
        variant, batch_statistics=batch_statistics, reference_row_bug=reference_row_bug
    )
    wanted = {
        reference_name(name, variant): (name, tensor)
        for name, tensor in network.state_dict().items()
    }
    _check_names(path, variant, set(wanted), set(tensors))
    for name, (_, tensor) in wanted.items():
        _check_tensor(path, name, tensors[name], tensor)
    network.load_state_dict({ours: tensors[name] for name, (ours, _) in wanted.items()})
    return network.eval()


def _load(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SegmendError(f"{path}: no such file; want a .th or .pth state dict") from None
    except pickle.UnpicklingError as error:
        raise SegmendError(
            f"{path}: holds more than plain tensors, or is not a file of torch.save "
            f"({_first_line(error)}); refused, because unpickling it could run its code. "
            "Save the bare model.state_dict() and import that"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SegmendError(
            f"{path}: cannot be read as a file of torch.save ({_first_line(error)}); "
            "is the download complete, and the archive unpacked?"
        ) from error


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise SegmendError(
            f"{path}: want a dict of tensors (or one under 'state_dict' or 'model'), "
            f"got {'an empty dict' if isinstance(content, Mapping) else type(content).__name__}"
        )
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise SegmendError(f"{path}: {name}: want a tensor, got {type(value).__name__}")
        name = str(name).removeprefix("module.")
        if name in tensors:
            raise SegmendError(f"{path}: {name}: there twice, with and without 'module.'")
        tensors[name] = value
    return tensors


def _variant(path: Path, tensors: Mapping[str, Tensor]) -> Variant:
    if any(name.startswith("conv_last_") for name in tensors):
        return "P4"
    if any(name.startswith("out_global.") for name in tensors):
        return "P64" if any("_local." in name for name in tensors) else "P0"
    raise SegmendError(
        f"{path}: not a PatchRefineNet of the original code: want a tensor out_global.0.weight or "
        f"conv_last_global.0.weight among the {len(tensors)}, the first one is "
        f"{next(iter(tensors))}; the base models of the archives are not refiners"
    )


def _check_names(path: Path, variant: Variant, wanted: set[str], found: set[str]) -> None:
    if wanted == found:
        return
    differences = [
        f"{len(names)} {word} ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for word, names in (("missing", wanted - found), ("unknown", found - wanted))
        if names
    ]
    raise SegmendError(
        f"{path}: want the {len(wanted)} tensors of variant {variant}, got {len(found)}: "
        f"{'; '.join(differences)}. Save the whole state_dict() of the original's network"
    )


def _check_tensor(path: Path, name: str, found: Tensor, wanted: Tensor) -> None:
    if found.is_sparse or found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise SegmendError(
            f"{path}: {name}: want {wanted.dtype} {tuple(wanted.shape)}, "
            f"got {found.dtype} {tuple(found.shape)}"
        )
    if not bool(found.isfinite().all()):
        count = int((~found.isfinite()).sum())
        raise SegmendError(
            f"{path}: {name}: want finite values, got {count} that are NaN or infinite"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
