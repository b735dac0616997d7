"""Tags that a classifier tells, where the data has none or another network is to say them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segmend.tags.classifier import TagClassifier
from segmend.tags.classifier_files import TAGGER, LoadedClassifier, load_classifier


def tag_source(tags_from: str, run: Path) -> LoadedClassifier | None:
    """The classifier that a `tags_from` setting names; None for "data": the data's own tags.

    Args:
        tags_from: "data"; "network": the one of `run` that tells tags (its plain network where it
            has two); else another folder that `segmend tags train` wrote.
        run: the folder whose network draws the maps.
    Raises:
        SegmendError: as in `load_classifier`.
    """
    if tags_from == "data":
        return None
    folder = run if tags_from == "network" else Path(tags_from)
    return load_classifier(folder / TAGGER if (folder / TAGGER).exists() else folder)


@torch.inference_mode()
def predicted_tags(model: TagClassifier, image: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Tags (C,) in {0, 1} of an image (3, H, W): classes of at least this probability."""
    scores = model.read(image[None]).scores[0]
    return (torch.sigmoid(scores) >= threshold).float()
