"""Scores as whole numbers of the same order, so that a score and its label sort as one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segmend.errors import SegmendError

# Largest level of a quantised map, by dtype. int32 holds 16-bit maps where uint16 is not at hand.
LEVELS = {torch.uint8: 255, torch.uint16: 65535, torch.int32: 65535}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Bits of 1.0: up to there the bits of a float without sign, read as an integer, ascend with it.
_ONE_32 = 0x3F800000
_ONE_64 = 0x3FF0000000000000


@dataclass(frozen=True)
class ScoreCodes:
    """Whole numbers with the order and the ties of the scores that they stand for."""

    codes: Tensor
    """int32 or int64, the shape of the scores."""
    bound: int
    """No code is above it, and none below -bound."""
    base: int
    """Largest code whose score is <= the base threshold, or a smaller number if there is none."""
    decode: Callable[[Tensor], Tensor]
    """Codes back to scores, in the dtype of thresholds."""


def is_quantised(scores: Tensor) -> bool:
    return scores.dtype in LEVELS


def threshold_dtype(scores: Tensor) -> torch.dtype:
    return torch.float32 if is_quantised(scores) else scores.dtype


def check_scores(scores: Tensor, *, probabilities: bool) -> tuple[float, float]:
    """Lowest and highest score, after refusing what has no order or is out of range."""
    low, high = (float(value) for value in scores.aminmax())
    top = LEVELS.get(scores.dtype, 1)
    if not (low > float("-inf") and high < float("inf")):  # also false for NaN
        bad = ~torch.isfinite(scores)
        raise SegmendError(
            f"probs: NaN or infinite in {_where(bad)}; want finite values, "
            f"or mark such pixels as ignored in target"
        )
    if (probabilities or is_quantised(scores)) and not (low >= 0 and high <= top):
        raise SegmendError(
            f"probs: want {scores.dtype} values in [0, {top}], got {low:g} to {high:g} in "
            f"{_where((scores < 0) | (scores > top))}; pass logits through a sigmoid first"
        )
    return low, high


def _where(bad: Tensor) -> str:
    images = bad.flatten(1).any(1).nonzero().flatten().tolist()
    return f"{int(bad.sum())} valid pixels, first in image {images[0]}"


def encode(scores: Tensor, *, base: float, low: float, high: float) -> ScoreCodes:
    """Codes of `scores`, all in [low, high]; `base` is in the unit of the scores."""
    dtype = threshold_dtype(scores)
    if is_quantised(scores):
        top = LEVELS[scores.dtype]
        return ScoreCodes(scores.to(torch.int32), top, int(base // 1), lambda c: c.to(dtype))
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if low >= 0 and high <= 1:
        return _encode_probabilities(wide, base, dtype)
    if wide.dtype == torch.float32:
        return _encode_float32(wide, base, dtype)
    # 64 bits and a label do not fit one integer: rank the distinct values instead.
    values, rank = torch.unique(wide, return_inverse=True)
    at_base = torch.searchsorted(values, wide.new_tensor([base]), right=True)
    return ScoreCodes(rank, len(values) - 1, int(at_base) - 1, lambda c: values[c])


def _encode_probabilities(wide: Tensor, base: float, dtype: torch.dtype) -> ScoreCodes:
    bits, top = (torch.int32, _ONE_32) if wide.dtype == torch.float32 else (torch.int64, _ONE_64)
    at_base = int(wide.new_tensor([base]).cpu().view(bits))
    # Adding 0 turns -0.0, which equals 0.0 but has other bits, into 0.0.
    return ScoreCodes((wide + 0).view(bits), top, at_base, lambda c: c.view(wide.dtype).to(dtype))


def _encode_float32(wide: Tensor, base: float, dtype: torch.dtype) -> ScoreCodes:
    def code(values: Tensor) -> Tensor:
        bits = (values + 0).view(torch.int32)
        # Negative floats descend as their bits ascend: flip those.
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)

    def decode(codes: Tensor) -> Tensor:
        bits = codes.to(torch.int32)
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32).to(dtype)

    return ScoreCodes(code(wide), 1 << 31, int(code(wide.new_tensor([base]))), decode)
