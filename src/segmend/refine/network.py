"""PatchRefineNet: the published network that refines a probability map from that map alone."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.refine.blocks import PYRAMID_BINS, BatchNorm, Decoder, Encoder, NormKind, make_norm

Variant = Literal["P0", "P4", "P64"]

GRIDS: dict[Variant, int] = {"P0": 1, "P4": 4, "P64": 8}
"""Patches a side that the local decoder sees; P0 has no local decoder."""

STRIDE = 8
"""Ratio of the input's side to that of the smallest feature map."""

CPU_BATCH_PIXELS = 2**15
"""Input pixels of the patches that a CPU decodes at once: their feature maps fit into its caches.
Measured on 512x512 with one thread: all patches at once take 1.5 times as long."""

ROW_BUG = (1, 6, 2)
"""Feature level, patch row it goes wrong in, patch row the original reads instead (P64)."""


class RefinedLogits(NamedTuple):
    """Output of PatchRefineNet: two float tensors (N, 1, H, W), the second one None for P0.

    `merge.merge` turns them into one map.
    """

    global_: Tensor
    local: Tensor | None


class PatchRefineNet(nn.Module):
    """Refine probability maps with a global and a patch-local decoder, in the published form.

    Takes `probs`, float (N, in_channels, H, W) in [0, 1], any H and W: maps are padded at the
    bottom and the right with their edge values to a multiple of 64 (8 patches of at least one
    bottleneck pixel; the pyramid's 8 cells then have equal sizes) and the outputs cropped.
    Returns `RefinedLogits`; sigmoid gives probabilities. At 512x512, the only size of the
    original, nothing is padded.

    Args:
        variant: "P0" global decoder only; "P4" 4x4 patches; "P64" 8x8 patches (published best).
        in_channels: channels of the probability map; 1 in the paper.
        width: channels of the first stage; 32 in the original (an even number).
        patch_norm: norm layers of the local decoder. "batch" is the original's. "group" has no
            statistics over patches, hence means the same in training and in use.
        fold_patches: decode patches in batches (default; all at once, except in eval mode on a
            CPU, where a few at a time are faster), or one grid place after another.
            The outputs differ in train mode only: folded, batch norm sees all patches at once;
            unfolded, it sees one place of the grid at a time, as in the original.
        batch_statistics: in eval mode, normalise every image and every patch by its own statistics,
            as the original's prediction script does (it never leaves train mode). Unlike there,
            images of a batch do not mix and the running statistics do not drift.
        reference_row_bug: P64 only; feed row 7 of the patches the half-size features of row 3,
            as the original does. Needed only to reproduce its numbers.

    Raises:
        SegmendError: an argument or a shape is not as above. (Values are not read.)

    Reference:
        Nagendra, Shen, Kifer, "PatchRefineNet", WACV 2024, arXiv 2211.06560. Constants and layer
        sizes follow the published code where the paper's figure differs (encoder, heads).
    """

    def __init__(
        self,
        variant: Variant = "P64",
        *,
        in_channels: int = 1,
        width: int = 32,
        patch_norm: NormKind = "batch",
        fold_patches: bool = True,
        batch_statistics: bool = False,
        reference_row_bug: bool = False,
    ) -> None:
        super().__init__()
        _check_options(variant, in_channels, width, patch_norm, reference_row_bug)
        self.variant: Variant = variant
        self.in_channels = in_channels
        self.grid = GRIDS[variant]
        self.fold_patches = fold_patches
        self.reference_row_bug = reference_row_bug
        widths = (width, 2 * width, 4 * width, 8 * width)
        head_kernel = 1 if variant == "P0" else 3
        batch = make_norm("batch")
        self.encoder = Encoder(in_channels, widths, batch)
        self.global_decoder = Decoder(widths, head_kernel, batch)
        self.local_decoder = (
            None if variant == "P0" else Decoder(widths, head_kernel, make_norm(patch_norm))
        )
        self.batch_statistics = batch_statistics
        self.to(memory_format=torch.channels_last)  # faster on CPUs and tensor cores alike

    @property
    def batch_statistics(self) -> bool:
        """Whether eval mode uses each item's own statistics; may be set at any time."""
        return any(m.batch_statistics for m in self.modules() if isinstance(m, BatchNorm))

    @batch_statistics.setter
    def batch_statistics(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.batch_statistics = value

    def forward(self, probs: Tensor) -> RefinedLogits:
        if probs.ndim != 4 or probs.shape[1] != self.in_channels or not probs.is_floating_point():
            raise SegmendError(
                f"probs: want float (N, {self.in_channels}, H, W), "
                f"got {probs.dtype} {tuple(probs.shape)}"
            )
        height, width = probs.shape[-2:]
        if height == 0 or width == 0:
            raise SegmendError(f"probs: want at least one pixel, got {tuple(probs.shape)}")
        features = self.encoder(pad_to_grid(probs))
        global_ = self.global_decoder(features)[..., :height, :width]
        if self.local_decoder is None:
            return RefinedLogits(global_, None)
        return RefinedLogits(global_, self.decode_patches(features)[..., :height, :width])

    def decode_patches(self, features: list[Tensor]) -> Tensor:
        """Local logits (N, 1, H, W) of the encoder's features, every patch decoded alone."""
        if self.local_decoder is None:
            raise SegmendError(f"variant {self.variant} has no local decoder")
        patches = [fold(level, self.grid) for level in features]
        if self.reference_row_bug:
            level, row, wrong = ROW_BUG
            patches[level] = patches[level].clone()
            patches[level][:, row] = patches[level][:, wrong]
        if self.fold_patches:
            decoded = self._decode_batch([level.flatten(0, 2) for level in patches])
            grid = decoded.reshape(-1, self.grid, self.grid, *decoded.shape[1:])
        else:
            places = [(r, c) for r in range(self.grid) for c in range(self.grid)]
            one_by_one = [self.local_decoder([p[:, r, c] for p in patches]) for r, c in places]
            decoded = torch.stack(one_by_one, dim=1)
            grid = decoded.reshape(-1, self.grid, self.grid, *decoded.shape[2:])
        return unfold(grid)

    def _decode_batch(self, patches: list[Tensor]) -> Tensor:
        """Logits of patches (P, C, h, w), on a CPU by as many as its caches hold."""
        assert self.local_decoder is not None
        largest = patches[0]
        # Norms of train mode see a whole batch, so it may not be split; nor can a graph of
        # unknown size.
        if self.training or largest.device.type != "cpu" or torch.compiler.is_compiling():
            return self.local_decoder(patches)  # type: ignore[no-any-return]
        size = max(1, CPU_BATCH_PIXELS // (largest.shape[-2] * largest.shape[-1]))
        parts = zip(*(torch.split(level, size) for level in patches), strict=True)
        return torch.cat([self.local_decoder(list(part)) for part in parts])


def pad_to_grid(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) continued by their last row and column to multiples of 64."""
    multiple = STRIDE * max(PYRAMID_BINS)
    height, width = maps.shape[-2:]
    # Written as ceil(side / 64) * 64, so that an exporter can prove divisibility for any size.
    below = (height + multiple - 1) // multiple * multiple - height
    right = (width + multiple - 1) // multiple * multiple - width
    return F.pad(maps, (0, right, 0, below), mode="replicate")


def fold(maps: Tensor, grid: int) -> Tensor:
    """Cut (N, C, H, W) into (N, grid, grid, C, H / grid, W / grid) patches."""
    count, channels, height, width = maps.shape
    cut = maps.reshape(count, channels, grid, height // grid, grid, width // grid)
    return cut.permute(0, 2, 4, 1, 3, 5)


def unfold(patches: Tensor) -> Tensor:
    """Put (N, grid, grid, C, h, w) patches back together to (N, C, grid * h, grid * w)."""
    count, rows, columns, channels, height, width = patches.shape
    joined = patches.permute(0, 3, 1, 4, 2, 5)
    return joined.reshape(count, channels, rows * height, columns * width)


def _check_options(
    variant: str, in_channels: int, width: int, patch_norm: str, reference_row_bug: bool
) -> None:
    if variant not in GRIDS:
        raise SegmendError(f"variant: want one of {', '.join(GRIDS)}, got {variant!r}")
    if in_channels < 1:
        raise SegmendError(f"in_channels: want a number >= 1, got {in_channels}")
    if width < 2 or width % 2:
        raise SegmendError(f"width: want an even number >= 2, got {width}")
    if patch_norm not in get_args(NormKind):
        raise SegmendError(f"patch_norm: want 'batch' or 'group', got {patch_norm!r}")
    if reference_row_bug and variant != "P64":
        raise SegmendError(
            f"reference_row_bug: only P64 of the original has it, got variant {variant!r}; "
            "leave the option out"
        )
