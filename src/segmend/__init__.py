"""segmend: find what is systematically wrong with a segmentation model's masks, and mend it.

The names below load on first use, so that `import segmend` stays cheap: neither PyTorch nor
any method is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from segmend.errors import SegmendError
    from segmend.refine import Refiner
    from segmend.tags import FeatureSimilarityLoss, ImportanceSamplingLoss

_HOMES = {
    "FeatureSimilarityLoss": "segmend.tags",
    "ImportanceSamplingLoss": "segmend.tags",
    "Refiner": "segmend.refine",
    "SegmendError": "segmend.errors",
}

__all__ = [
    "FeatureSimilarityLoss",
    "ImportanceSamplingLoss",
    "Refiner",
    "SegmendError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'segmend' has no attribute {name!r}; it has {sorted(_HOMES)}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
