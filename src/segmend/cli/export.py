"""`segmend export`: a refiner or a base model as an ONNX file for any image size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmend.cli.arguments import RECIPE, SETS


def export(
    out: Annotated[Path, typer.Option(help="File to write, such as refiner.onnx.")],
    refiner: Annotated[
        Path | None, typer.Option(help="Folder written by `segmend refine fit`.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder written by `segmend train`.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="onnx is the one there is.")
    ] = None,
    recipe: RECIPE = None,
    set_: SETS = None,
) -> None:
    """Write a model or refiner as ONNX, with dynamic height and width.

    A refiner's graph takes `probs` (N, C, H, W), and `images` if it was fitted with them, and
    gives refined probabilities; a base's takes `images` in [0, 1] and gives logits. The file is
    run once and compared with PyTorch before it gets its name.
    """
    from segmend.errors import SegmendError

    if (refiner is None) == (checkpoint is None):
        raise SegmendError("export: give either --refiner DIR or --checkpoint DIR")
    from segmend.cli.settings import print_settings, resolve, write_run_record
    from segmend.refine.export import ExportOptions, export_onnx

    options = resolve(ExportOptions, recipe, set_ or [], {"format": format_})
    print_settings(options)

    if refiner is not None:
        from segmend.refine import Refiner
        from segmend.refine.refiner import RefinerGraph

        loaded = Refiner.load(refiner)
        channels = {"probs": loaded.channels}
        if loaded.needs_images:
            channels["images"] = 3
        export_onnx(RefinerGraph(loaded), out, inputs=channels)
    else:
        from segmend.engine.checkpoints import load_segmenter

        assert checkpoint is not None
        model, _ = load_segmenter(checkpoint)
        export_onnx(model, out, inputs={"images": 3})
    inputs = {"refiner": refiner, "checkpoint": checkpoint}
    write_run_record(out, "export", options, {"inputs": inputs})
    typer.echo(f"written to {out}")
