"""Settings of a diagnosis."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Pixels = Annotated[int, Field(ge=1)]


class DiagnoseOptions(BaseModel):
    """What a diagnosis looks at; frozen. All defaults are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = Field(None, ge=0, lt=1)
    """Of a binary map, used as `probs > threshold`; None: 0.5."""
    patch_sizes: tuple[Pixels, ...] = (32, 64, 128)
    """Sides in pixels of the patches that choose a threshold of their own."""
    boundary_widths: tuple[Pixels, ...] = (1, 2, 4)
    """Bands about the true outlines, in steps to a neighbouring pixel. The widest one also says
    what is beyond the outline (over-segmentation) and what is near it (calibration)."""
    missed_share: float = Field(0.05, ge=0, lt=1)
    """An object of the truth counts as missed where at most this share of it was found."""
    background: bool = True
    """False: class 0 is a class like the others; then nothing is an object on a background, and
    islands, spill, missed objects and holes are not looked for."""
    frame_cells: int = Field(8, ge=2, le=64)
    """Rows and columns of the grid over the frame on which a bias by position is sought."""
    permutations: int = Field(999, ge=1)
    """Of the test whether that bias is more than chance."""
    num_resamples: int = Field(1000, ge=1)
    """Of the bootstrap over images."""
    clusters: int = Field(5, ge=1, le=32)
    """Groups of background appearance, where there are images."""
    pairs: int = Field(3, ge=0)
    """Pairs of confused classes that become a fix of their own."""
    seed: int = 0
