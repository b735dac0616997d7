"""One image of a diagnosis: what was predicted, what is true, and what may be known besides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One image or volume.

    Attributes:
        name: as in the folder, or the index.
        prediction: int64 (H, W) or (H, W, D), labels; a binary problem has 0 and 1.
        target: the same shape, labels; `valid` says which of them count.
        valid: bool, the same shape: False where the truth is not known.
        probs: float32 (C, H, W[, D]) in [0, 1], C = 1 in a binary problem; None: hard masks only.
        image: float32 (3, H, W) in [0, 1], or None.
        candidates: bool (C,), classes the image may hold, background included; None: unknown.
    """

    name: str
    prediction: Tensor
    target: Tensor
    valid: Tensor
    probs: Tensor | None = None
    image: Tensor | None = None
    candidates: Tensor | None = None


class CaseSet(Protocol):
    """Cases by index, read when they are asked for: nothing holds the whole set in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Case: ...

    def __iter__(self) -> Iterator[Case]: ...
