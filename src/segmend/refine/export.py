"""Refiners as ONNX files that take maps of any size."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from segmend.data.files import atomic_write
from segmend.errors import SegmendError

ONE_MAP: Mapping[str, int] = MappingProxyType({"maps": 1})
EXAMPLE_SIZE = (128, 192)
CHECK_SIZES = ((1, 64, 64), (2, 97, 150))
"""Batch, height and width at which the file is compared with torch before it gets its name."""
TOLERANCE = 1e-4
OPSET = 18


class ExportOptions(BaseModel):
    """Settings of `segmend export`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["onnx"] = "onnx"


def export_onnx(
    module: nn.Module,
    path: str | PathLike[str],
    *,
    inputs: Mapping[str, int] = ONE_MAP,
    check: bool = True,
) -> Path:
    """Write `module`, in eval mode, as one ONNX file with dynamic batch, height and width.

    Args:
        module: takes one float32 tensor (N, C, H, W) for each of `inputs`, all of one N, H and W,
            and returns one tensor or a tuple of tensors. PatchRefineNet and BiasField both do.
            The module itself is left as it is.
        path: the file to write; it appears complete or not at all.
        inputs: name and channel count of each input, in the order of `forward`; the names become
            the graph's. Default: one input "maps" with one channel. A BiasField that sees images
            wants {"logits": 1, "images": 3}.
        check: run the written graph at two sizes in onnxruntime and refuse it where an output
            differs from torch by more than 1e-4 (relative above 1). Costs a few forward passes.

    Returns:
        `path`. Outputs are named by the fields of a named tuple without trailing underscores
        ("global", "local"); else "output", or "output_0", "output_1", ...

    Raises:
        SegmendError: the `export` extra is missing, the module cannot be traced at dynamic size,
            the graph differs from torch, or the folder is not writable.
    """
    path = Path(path)
    _require_packages()
    wrapped = _Flat(copy.deepcopy(module).cpu().eval())
    example = _maps(inputs, (2, *EXAMPLE_SIZE))
    with torch.no_grad():
        wrapped(*example)  # fails here, in torch's own words, if `inputs` do not fit
    with atomic_write(path) as temporary:
        _write(wrapped, example, temporary, path, list(inputs))
        if check:
            _check(wrapped, temporary, path, inputs)
    return path


class _Flat(nn.Module):
    """A module whose output is a plain tuple of tensors, without the ones that are None."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.output_names: list[str] = []

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        output: Any = self.module(*maps)
        if isinstance(output, Tensor):
            self.output_names = ["output"]
            return (output,)
        fields = getattr(output, "_fields", [f"output_{i}" for i in range(len(output))])
        named = [(n, t) for n, t in zip(fields, output, strict=True) if t is not None]
        self.output_names = [name.rstrip("_") for name, _ in named]
        return tuple(tensor for _, tensor in named)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SegmendError(
            f"export to ONNX needs the package {error.name}; pip install 'segmend[export]'"
        ) from error


def _maps(inputs: Mapping[str, int], size: tuple[int, int, int]) -> tuple[Tensor, ...]:
    count, height, width = size
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.rand(count, channels, height, width, generator=generator)
        for channels in inputs.values()
    )


def _write(
    module: _Flat, example: tuple[Tensor, ...], temporary: Path, path: Path, names: list[str]
) -> None:
    auto = torch.export.Dim.DYNAMIC
    axes = {0: auto, 2: auto, 3: auto}
    outputs = list(module.output_names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals; the check has the say
            torch.onnx.export(
                module,
                example,
                str(temporary),
                dynamo=True,
                input_names=names,
                output_names=outputs,
                # One entry per argument of forward(*maps), whose star makes it one tuple.
                dynamic_shapes=(tuple(axes for _ in names),),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise SegmendError(
            f"{path}: {type(module.module).__name__} cannot be exported at dynamic size: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0]}"
        ) from error


def _check(module: _Flat, temporary: Path, path: Path, inputs: Mapping[str, int]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
    for size in CHECK_SIZES:
        maps = _maps(inputs, size)
        with torch.no_grad():
            wanted = module(*maps)
        found = session.run(None, {name: m.numpy() for name, m in zip(inputs, maps, strict=True)})
        for name, want, got in zip(module.output_names, wanted, found, strict=True):
            error = (want - torch.from_numpy(got)).abs() / want.abs().clamp(min=1)
            if not float(error.max()) <= TOLERANCE:
                raise SegmendError(
                    f"{path}: output {name!r} of the graph differs from torch by "
                    f"{float(error.max()):.2g} at (N, H, W) = {size}, want {TOLERANCE:g} or less; "
                    "not written"
                )
