"""A trained segmenter with contexts, on disk and back: what it was made of, and its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from segmend.context.generator import ContextGenerator
from segmend.context.heads import widen_head
from segmend.context.merging import MergedNetwork
from segmend.context.options import ContextOptions
from segmend.data.files import write_json
from segmend.engine.checkpoints import load_segmenter
from segmend.engine.seeds import seed_everything
from segmend.errors import SegmendError, reason_of
from segmend.models.segmenters import build_segmenter
from segmend.models.volumes import NETWORKS, build_volume_network

DESCRIPTION = "context.json"
FORMAT = "segmend-context-1"


@dataclass(frozen=True)
class ContextRun:
    """What `train_context` left.

    network: with the contexts' channels. merged: the ordinary network, `num_classes` logits (for
    pictures of two classes one), contexts merged as the options say; both in evaluation mode, on
    the CPU. generator: of learned contexts. options, in_channels, dimensions: how it was trained.
    """

    network: nn.Module
    merged: MergedNetwork
    generator: nn.Module | None
    options: ContextOptions
    in_channels: int
    dimensions: int

    @property
    def window(self) -> tuple[int, ...] | None:
        """Sides of the window for volumes; images are predicted whole."""
        return self.options.patch if self.dimensions == 3 else None


def build_context_network(
    options: ContextOptions, *, in_channels: int, dimensions: int, pretrained: bool = True
) -> nn.Module:
    """The segmenter to be trained, seeded: the same for every K but for its widened last layer.

    Raises:
        SegmendError: a network that is not known, or not for so many axes or channels.
    """
    seed_everything(options.seed)
    ours = options.network not in NETWORKS or options.network == "plain_unet"
    channels = options.num_classes if ours else options.channels  # MONAI's are built at full width
    if options.network in NETWORKS:
        patch = options.patch if dimensions == 3 else (options.crop or 256,) * 2
        model = build_volume_network(
            options.network,
            in_channels=in_channels,
            out_channels=channels,
            widths=options.widths,
            patch=patch,
            spacing=options.spacing,
            deep_supervision=options.deep_supervision,
        )
    elif dimensions == 3:
        raise SegmendError(f"network: {options.network!r}; volumes want {', '.join(NETWORKS)}")
    else:
        model = build_segmenter(
            options.network,
            encoder=options.encoder,
            num_classes=channels,
            weights=options.weights if pretrained else "none",
        )
    return widen_head(model, options.num_context) if channels < options.channels else model


def build_generator(
    options: ContextOptions, *, in_channels: int, dimensions: int
) -> ContextGenerator:
    """The generator of learned contexts, seeded apart from the segmenter."""
    seed_everything((options.seed + 1) % 2**32)
    return ContextGenerator(
        in_channels,
        options.num_context,
        widths=[max(4, round(options.generator_width * w)) for w in options.widths],
        stride=options.generator_stride,
        dimensions=2 if dimensions == 2 else 3,
    )


def describe_run(out: Path, options: ContextOptions, *, in_channels: int, dimensions: int) -> None:
    """Write what `load_context` needs beside the weights."""
    content = {
        "format": FORMAT,
        "in_channels": in_channels,
        "dimensions": dimensions,
        "options": options.model_dump(mode="json"),
    }
    write_json(out / DESCRIPTION, content)


def is_context_run(path: str | Path) -> bool:
    """Whether a folder was written by `train_context`."""
    return (Path(path) / DESCRIPTION).is_file()


def load_context(path: str | Path) -> ContextRun:
    """Read what `train_context` wrote.

    Raises:
        SegmendError: a missing, truncated or foreign file (named), or weights that do not fit.
    """
    folder = Path(path)
    meta = _read(folder / DESCRIPTION)
    try:
        options = ContextOptions.model_validate(meta["options"])
        shape = {"in_channels": int(meta["in_channels"]), "dimensions": int(meta["dimensions"])}
    except (KeyError, TypeError, ValidationError) as error:
        reason = reason_of(error)
        raise SegmendError(f"{folder / DESCRIPTION}: cannot be read: {reason}") from error
    network = build_context_network(options, **shape, pretrained=False)
    load_segmenter(folder, model=network)
    merged = MergedNetwork(
        network,
        num_context=options.num_context,
        num_classes=options.num_classes,
        merge=options.merge,
        single_logit=shape["dimensions"] == 2 and options.num_classes == 2,
    ).eval()
    generator = _generator(folder, options, **shape)
    return ContextRun(network, merged, generator, options, **shape)


def _generator(
    folder: Path, options: ContextOptions, *, in_channels: int, dimensions: int
) -> nn.Module | None:
    from safetensors.torch import load_file

    path = folder / "generator.safetensors"
    if options.method != "learned" or options.num_context == 1 or not path.is_file():
        return None
    generator = build_generator(options, in_channels=in_channels, dimensions=dimensions)
    generator.load_state_dict(load_file(path))
    return generator.eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SegmendError(
            f"{path}: not found; want a folder that training with context labels wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise SegmendError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise SegmendError(f"{path}: want a file of format {FORMAT!r}")
    return meta
