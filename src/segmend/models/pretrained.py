"""Bases that ship trained, so that the demo mends a good model and not a toy."""

from __future__ import annotations

from pathlib import Path


def nuclei_base() -> Path:
    """Folder of a checkpoint for `load_segmenter`: nuclei in microscopy images, one channel.

    SqueezeNet + FPN, trained on the 400 training images of BBBC038v1 (CC0) by
    `benchmarks/demo_base.py`; none of the bundled sample's images was used.
    """
    return Path(__file__).parent / "weights" / "nuclei_fpn"
