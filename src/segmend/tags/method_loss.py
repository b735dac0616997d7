"""Which loss trains which kind of classifier."""

from __future__ import annotations

from torch import Tensor

from segmend.tags.loss import tag_loss, token_loss, two_view_loss
from segmend.tags.network import MctformerClassifier, SeamClassifier, TagClassifier
from segmend.tags.options import TagOptions


def method_loss(
    model: TagClassifier,
    images: Tensor,
    tags: Tensor,
    inside: Tensor,
    options: TagOptions,
    *,
    background: int | None = 0,
    done: float = 1.0,
) -> Tensor:
    """The training loss of a batch for a classifier of `build_classifier`; see `tag_loss`."""
    if isinstance(model, SeamClassifier):
        return two_view_loss(model, images, tags, inside, options, background=background, done=done)
    if isinstance(model, MctformerClassifier):
        return token_loss(model, images, tags, inside, options, background=background, done=done)
    return tag_loss(model(images), tags, images, inside, options, background=background, done=done)
