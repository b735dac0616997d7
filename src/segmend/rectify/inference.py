"""Probabilities and labels of whole images, over several scales and mirrored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.rectify.candidates import candidates_from_scores, candidates_of
from segmend.rectify.masking import mask_probabilities, masked_labels
from segmend.rectify.network import RectifiedSegmenter
from segmend.rectify.options import RectifyPredictOptions

GATE_THRESHOLD, TAG_THRESHOLD = 0.01, 0.1
"""From which probability on a tag of the gate, or of a classifier, lets its class pass.

Masking takes the class away from an image altogether, so a doubt is no reason for it; and the gate,
which the segmentation loss pulls at, too, is far from sure even of what is there. Of nine values
on val in benchmarks/rectify_bed.py (MSRC's objects, three seeds) 0.1 is the best of a classifier;
of the gate 0.005 is level (mIoU 54.8, and 54.6) and leaves more pixels out of candidates. At 0.5,
which suits telling tags, masking costs mIoU.
"""

Refine = Callable[[Tensor, Tensor], Tensor]
"""(probs (K, H, W), image (3, H, W)) → probs (K, H, W), such as a dense CRF."""


class ImageReading(NamedTuple):
    """Probabilities (K, H, W) before any masking, and of the gate's tags (C,), if there is one."""

    probs: Tensor
    tags: Tensor | None


@torch.inference_mode()
def read_image_probabilities(
    model: RectifiedSegmenter,
    image: Tensor,
    options: RectifyPredictOptions | None = None,
    *,
    refine: Refine | None = None,
) -> ImageReading:
    """The mean of the probabilities over scales and mirror images, float32.

    HFPL averages logits and MCTformer takes the maximum; with a hierarchical head, whose logits
    are log-probabilities of any depth, the mean of probabilities is the one that stays stable.

    Args:
        model: in evaluation mode.
        image: (3, H, W) in [0, 1].
        refine: applied to the mean in the end.
    """
    options = options or RectifyPredictOptions()
    size = (image.shape[1], image.shape[2])
    probs: list[Tensor] = []
    tags: list[Tensor] = []
    for scale in options.scales:
        scaled = image[None]
        if scale != 1:
            shape = [max(1, round(side * scale)) for side in size]
            scaled = F.interpolate(scaled, size=shape, mode="bilinear", antialias=scale < 1)
        for mirrored in (False, True) if options.flip else (False,):
            reading = model.read(scaled.flip(-1) if mirrored else scaled)
            found = reading.logits.float().softmax(1)
            found = found.flip(-1) if mirrored else found
            if scale != 1:
                found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
            probs.append(found[0])
            if reading.tags is not None:
                tags.append(reading.tags[0].float().sigmoid())
    mean = torch.stack(probs).mean(0)
    if refine is not None:
        mean = refine(mean, image).to(mean.device)
    return ImageReading(mean, torch.stack(tags).mean(0) if tags else None)


def masked_reading(
    reading: ImageReading,
    options: RectifyPredictOptions,
    *,
    background: int | None,
    tags: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(probs (K, H, W), labels (H, W)) masked as the options say.

    Args:
        tags: {0, 1} or probabilities (C,) to mask by; None takes the gate's.
    Raises:
        SegmendError: masking without tags and without a gate; tags that do not fit.
    """
    probs = reading.probs[None]
    given, threshold = (reading.tags, GATE_THRESHOLD) if tags is None else (tags, TAG_THRESHOLD)
    mode = options.masking
    if mode == "none" or (mode == "auto" and given is None):
        return probs[0], probs.argmax(1)[0]
    mode = "keep" if mode == "auto" else mode
    if given is None:
        raise SegmendError(
            "masking: wants tags, and the segmenter has no gate to predict them; give tags, or "
            "say masking=none"
        )
    if tags is not None and bool(((tags == 0) | (tags == 1)).all()):
        candidates = candidates_of(tags[None], background=background)
    else:
        threshold = threshold if options.tag_threshold is None else options.tag_threshold
        candidates = candidates_from_scores(
            given[None].float(), threshold=threshold,
            at_least=int(background is None), background=background,
        )  # fmt: skip
    masked = mask_probabilities(probs, candidates, mode=mode, background=background)
    labels = masked_labels(probs, candidates, mode=mode, background=background)
    return masked[0], labels[0]
