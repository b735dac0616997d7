"""segmend: find what is systematically wrong with a segmentation model's masks, and mend it.

The names below load on first use, so that `import segmend` stays cheap: neither PyTorch nor
any method is imported before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from segmend import diagnose
    from segmend.context import ContextLabelLearner
    from segmend.diagnose import Diagnosis
    from segmend.errors import SegmendError, SegmendWarning
    from segmend.rectify import OutOfCandidateRectification
    from segmend.refine import Refiner
    from segmend.tags import FeatureSimilarityLoss, ImportanceSamplingLoss

_HOMES = {
    "ContextLabelLearner": "segmend.context",
    "Diagnosis": "segmend.diagnose",
    "FeatureSimilarityLoss": "segmend.tags",
    "ImportanceSamplingLoss": "segmend.tags",
    "OutOfCandidateRectification": "segmend.rectify",
    "Refiner": "segmend.refine",
    "SegmendError": "segmend.errors",
    "SegmendWarning": "segmend.errors",
}

__all__ = [
    "ContextLabelLearner",
    "Diagnosis",
    "FeatureSimilarityLoss",
    "ImportanceSamplingLoss",
    "OutOfCandidateRectification",
    "Refiner",
    "SegmendError",
    "SegmendWarning",
    "__version__",
    "diagnose",
]


def __getattr__(name: str) -> object:
    if name == "diagnose":  # a room that can be called
        return import_module("segmend.diagnose")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(
            f"module 'segmend' has no attribute {name!r}; it has {sorted(__all__)}"
        )
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
