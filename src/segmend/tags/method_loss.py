"""The training loss of every method: its own terms around the loss of the maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.amn import balanced_cross_entropy
from segmend.tags.loss import cells_inside, classification_loss, similarity_loss, tag_loss
from segmend.tags.mctformer import distinct_tokens_loss
from segmend.tags.network import (
    AmnClassifier,
    MctformerClassifier,
    Pooling,
    PpcClassifier,
    RecamClassifier,
    SeamClassifier,
    SipeClassifier,
    TagClassifier,
    pool_scores,
)
from segmend.tags.options import TagOptions
from segmend.tags.ppc import contrast_losses
from segmend.tags.puzzle import merged, ramp, reconstruction_loss, tiled
from segmend.tags.recam import class_features, present_class_loss
from segmend.tags.seam import seam_losses
from segmend.tags.seam_network import View
from segmend.tags.sipe import prototype_loss


@dataclass(frozen=True)
class Step:
    """A batch, and where in the training it is taken.

    Attributes:
        images: float (N, 3, H, W) in [0, 1].
        tags: (N, C) in {0, 1}.
        inside: bool (N, H, W), False where a crop was padded.
        options: of the training.
        background: None where every pixel belongs to a class that can be a tag.
        done: share of the training that lies behind.
        labels: int64 (N, H, W), 255 where nothing is known; for methods that learn from pixels.
    """

    images: Tensor
    tags: Tensor
    inside: Tensor
    options: TagOptions
    background: int | None = 0
    done: float = 1.0
    labels: Tensor | None = None

    def tag_loss(self, logits: Tensor, *, pooling: Pooling | None = None) -> Tensor:
        """GAP or ISL, and FSL, of maps (N, C, h, w); see `loss.tag_loss`."""
        return tag_loss(
            logits, self.tags, self.images, self.inside, self.options,
            background=self.background, done=self.done, pooling=pooling,
        )  # fmt: skip

    def soft_margin(self, scores: Tensor) -> Tensor:
        """The multi-label loss of scores (N, C)."""
        return F.binary_cross_entropy_with_logits(scores.float(), self.tags.float())


def method_loss(model: TagClassifier, step: Step) -> Tensor:
    """The training loss of a batch for any classifier of `build_classifier`: a scalar."""
    match model:
        case PpcClassifier():
            return ppc_loss(model, step)
        case SeamClassifier():
            return seam_loss(model, step)
        case MctformerClassifier():
            return token_loss(model, step)
        case RecamClassifier():
            return recam_loss(model, step)
        case SipeClassifier():
            return sipe_loss(model, step)
        case AmnClassifier():
            return amn_loss(model, step)
    if model.classifier_spec.method == "puzzle":
        return puzzle_loss(model, step)
    return step.tag_loss(model(step.images))


def token_loss(model: MctformerClassifier, step: Step) -> Tensor:
    """MCTformer's loss: soft margin of the class tokens, and `tag_loss` of the patch maps.

    MCTformer+ pools the patch maps by rank and keeps the class tokens apart.
    """
    found = model.tokens(step.images)
    loss = step.soft_margin(found.scores)
    if not model.plus:
        return loss + step.tag_loss(found.logits)
    apart = distinct_tokens_loss(found.class_tokens)
    return loss + step.tag_loss(found.logits, pooling="ranking") + _weight(step, 1) * apart


def puzzle_loss(model: TagClassifier, step: Step) -> Tensor:
    """Puzzle-CAM's loss: `tag_loss` of the image, soft margin of its tiles, and their difference.

    Images are first padded to an even number of cells.
    """
    sides = [
        2 * model.output_stride * -(-s // (2 * model.output_stride)) for s in step.images.shape[2:]
    ]
    frame = (0, sides[1] - step.images.shape[3], 0, sides[0] - step.images.shape[2])
    images = F.pad(step.images, frame, mode="replicate")
    step = replace(step, images=images, inside=F.pad(step.inside, frame, value=False))
    whole, parts = model(images), merged(model(tiled(images)))
    valid = cells_inside(step.inside, whole.shape[2:])
    scores = pool_scores(parts, pooling=step.options.pooling, valid=valid)
    apart = reconstruction_loss(whole, parts, step.tags, valid)
    weight = _weight(step, 1) * ramp(step.done)
    return step.tag_loss(whole) + step.soft_margin(scores) + weight * apart


def recam_loss(model: RecamClassifier, step: Step) -> Tensor:
    """ReCAM's loss: `tag_loss` of the first head, softmax of the second on classes' features."""
    features = model.features(step.images)
    logits = model.head(features)
    own = class_features(logits, features, cells_inside(step.inside, logits.shape[2:]))
    told_apart = present_class_loss(model.class_scores(own), step.tags)
    return step.tag_loss(logits) + _weight(step, 1) * told_apart


def sipe_loss(model: SipeClassifier, step: Step) -> Tensor:
    """SIPE's loss: `tag_loss`, and the difference between maps and the prototypes' maps."""
    stride = model.output_stride
    size = [-(-side // stride) for side in step.images.shape[2:]]
    valid = cells_inside(step.inside, size)
    logits, cams, own = model.maps(step.images, step.tags, valid)
    return step.tag_loss(logits) + _weight(step, 1) * prototype_loss(cams, own, valid)


def amn_loss(model: AmnClassifier, step: Step) -> Tensor:
    """AMN's loss: GAP or ISL of the plain head, cross-entropy of pixels, and FSL of their softmax.

    Without a background, the pixels' first channel is that of no class.
    """
    if step.labels is None:
        raise SegmendError("amn: wants labels of pixels; `train_tags` makes them from plain maps")
    features = model.features(step.images)
    logits, pixels = model.head(features), model.pixel_logits(features, step.tags)
    valid, labels = cells_inside(step.inside, logits.shape[2:]), step.labels
    if step.background is None:
        labels = labels.where(labels == 255, labels + 1)
    loss = classification_loss(logits, step.tags, valid, step.options, done=step.done)
    loss = loss + _weight(step, 1) * balanced_cross_entropy(pixels, labels)
    return loss + similarity_loss(
        pixels if step.background == 0 else pixels[:, 1:], step.tags, step.images, valid,
        step.options, background=step.background, done=step.done, form="multinomial",
    )  # fmt: skip


def seam_loss(model: SeamClassifier, step: Step) -> Tensor:
    """SEAM's losses of an image and its small view; ISL and FSL act on the full view alone.

    Source: published code of SEAM and HFPL.
    """
    return _seam_total(step, *_two_views(model, step))


def ppc_loss(model: PpcClassifier, step: Step) -> Tensor:
    """SEAM's losses and the contrast of pixels and prototypes, at the small view's size."""
    whole, small = _two_views(model, step)
    size = (small.logits.shape[2], small.logits.shape[3])
    one, two = (model.contrast(view, step.tags, size) for view in (whole, small))
    return _seam_total(step, whole, small) + _weight(step, 0.1) * contrast_losses(one, two)


def _two_views(model: SeamClassifier, step: Step) -> tuple[View, View]:
    small = F.interpolate(
        step.images, scale_factor=step.options.small_view, mode="bilinear", align_corners=True
    )

    def view(images: Tensor) -> View:
        size = [-(-side // model.output_stride) for side in images.shape[2:]]
        return model.view(images, cells_inside(step.inside, size))

    return view(step.images), view(small)


def _seam_total(step: Step, whole: View, small: View) -> Tensor:
    assert whole.valid is not None
    assert small.valid is not None
    losses = seam_losses(
        (whole.logits, small.logits),
        (whole.revised, small.revised),
        step.tags,
        (whole.valid, small.valid),
        full_view_loss=classification_loss(
            whole.logits, step.tags, whole.valid, step.options, done=step.done
        ),
    )
    return losses.total + similarity_loss(
        whole.logits, step.tags, step.images, whole.valid, step.options,
        background=step.background, done=step.done,
    )  # fmt: skip


def _weight(step: Step, published: float) -> float:
    """Weight of the method's own term."""
    return published if step.options.method_weight is None else step.options.method_weight
