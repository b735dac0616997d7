"""Where the patches of an image lie: folding pixels into patches, spreading values over pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segmend.errors import SegmendError

# Images are worked on in chunks of about this many pixels: it bounds memory, not the result.
CHUNK_PIXELS = 1 << 22


@dataclass(frozen=True)
class PatchGrid:
    """Non-overlapping patches from the top left; at the right and lower border maybe smaller."""

    height: int
    width: int
    patch_height: int
    patch_width: int

    @property
    def rows(self) -> int:
        return -(-self.height // self.patch_height)

    @property
    def cols(self) -> int:
        return -(-self.width // self.patch_width)

    @property
    def patches(self) -> int:
        return self.rows * self.cols

    @property
    def pixels(self) -> int:
        """Pixels of a full patch."""
        return self.patch_height * self.patch_width

    def fold(self, maps: Tensor, *, fill: int) -> Tensor:
        """(N, H, W) -> (N * rows * cols, pixels); pixels beyond the border hold `fill`."""
        below = self.rows * self.patch_height - self.height
        right = self.cols * self.patch_width - self.width
        if below or right:
            # Not F.pad: its fill value goes through a float, which rounds a 64-bit integer.
            padded = maps.new_full((len(maps), self.height + below, self.width + right), fill)
            padded[:, : self.height, : self.width] = maps
            maps = padded
        sides = (self.rows, self.patch_height, self.cols, self.patch_width)
        blocks = maps.reshape(len(maps), *sides).transpose(2, 3)
        return blocks.reshape(len(maps) * self.patches, self.pixels)

    def patch_of_row_and_col(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """int64 (H,) and (W,), whose sum is the index, row by row, of a pixel's patch."""
        row = torch.arange(self.height, device=device) // self.patch_height
        col = torch.arange(self.width, device=device) // self.patch_width
        return row * self.cols, col

    def spread(self, values: Tensor) -> Tensor:
        """(N, rows, cols) -> (N, H, W): every pixel gets its patch's value."""
        tall = values.repeat_interleave(self.patch_height, dim=1)[:, : self.height]
        return tall.repeat_interleave(self.patch_width, dim=2)[:, :, : self.width]

    def chunks(self, images: int) -> Iterator[slice]:
        """Slices over the image axis of about CHUNK_PIXELS pixels each."""
        step = max(1, CHUNK_PIXELS // max(1, self.height * self.width))
        return (slice(start, start + step) for start in range(0, images, step))


def patch_grid(height: int, width: int, patch_size: int | tuple[int, int]) -> PatchGrid:
    """The grid over a `height` x `width` image; `patch_size` is a side or (height, width)."""
    sides = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(sides) != 2 or not all(isinstance(s, int) and s >= 1 for s in sides):
        raise SegmendError(
            f"patch_size: want a whole number >= 1 or a pair (height, width) of such, "
            f"got {patch_size!r}"
        )
    if height < 1 or width < 1:
        raise SegmendError(f"probs: want at least one pixel, got height {height}, width {width}")
    # A patch larger than the image is the image: no padding is sorted in vain.
    return PatchGrid(height, width, min(sides[0], height), min(sides[1], width))
