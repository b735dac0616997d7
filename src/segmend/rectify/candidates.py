"""Which classes an image may show, and which pixels wear another one."""

from __future__ import annotations

import torch
from torch import Tensor

from segmend.errors import SegmendError

_TOGETHER = 8  # channels copied at a time: bounds memory, whatever the number of classes


def candidates_of(
    tags: Tensor, *, num_classes: int | None = None, background: int | None = 0
) -> Tensor:
    """The classes that each image may show: its tags and the background.

    Args:
        tags: {0, 1}, any type (N, C), over the classes without the background, in label order.
        num_classes: K of the logits, for a check; C + 1 with a background, else C.
        background: its label, a candidate of every image; None where every class can be a tag.
    Returns:
        Bool (N, K).
    Raises:
        SegmendError: a shape, a width or a value other than said above.
    """
    if tags.ndim != 2 or tags.is_complex():
        raise SegmendError(f"tags: want numbers (N, C), got {tags.dtype} {tuple(tags.shape)}")
    _check_width(tags, num_classes, background)
    wrong = (tags != 0) & (tags != 1)
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise SegmendError(
            f"tags: want 0 or 1, found {float(tags[row, column]):g} at index ({row}, {column}); "
            "scores of a classifier become tags by candidates_from_scores"
        )
    present = tags.bool()
    if background is None:
        return present
    if not 0 <= background <= tags.shape[1]:
        raise SegmendError(f"background: want a label 0..{tags.shape[1]}, got {background}")
    always = torch.ones_like(present[:, :1])
    return torch.cat((present[:, :background], always, present[:, background:]), dim=1)


def candidates_from_scores(
    scores: Tensor, *, threshold: float = 0.5, at_least: int = 0, background: int | None = 0
) -> Tensor:
    """Candidates by a tag classifier, for images without tags.

    Args:
        scores: probabilities (N, C), classes without the background.
        threshold: from this probability on a class is a candidate.
        at_least: so many of the best classes always are; where there is no background 1 makes
            sure that there is a candidate.
    Returns:
        Bool (N, K), as `candidates_of`.
    Raises:
        SegmendError: a shape or option that does not fit; scores outside [0, 1].
    """
    if scores.ndim != 2 or not scores.is_floating_point():
        raise SegmendError(f"scores: want float (N, C), got {scores.dtype} {tuple(scores.shape)}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise SegmendError("scores: want probabilities in [0, 1]; apply sigmoid to logits first")
    if not 0 <= at_least <= scores.shape[1]:
        raise SegmendError(f"at_least: want 0..{scores.shape[1]}, got {at_least}")
    chosen = scores >= threshold
    if at_least:
        chosen = chosen.scatter(1, scores.topk(at_least, dim=1).indices, True)
    return candidates_of(chosen, background=background)


def out_of_candidate_mask(
    logits: Tensor, candidates: Tensor, *, valid: Tensor | None = None
) -> Tensor:
    """Pixels whose leading class is not a candidate of their image.

    A tie with a candidate is no fault; a pixel with a NaN is left alone; an image without any
    candidate is all out. No gradient passes. Works channel by channel: no copy of the logits.

    Args:
        logits: any scores whose largest wins, (N, K, H, W) float; 3D adds D.
        candidates: bool (N, K), see `candidates_of`.
        valid: bool (N, H, W), pixels that can be meant; None is all.
    Returns:
        Bool (N, H, W).
    Raises:
        SegmendError: shapes or types that do not fit.
    Source:
        Cheng et al., CVPR 2023 (OCR): "pixels whose predicted class is not among the image's
        label candidates".
    """
    check_logits(logits, candidates, valid)
    found = torch.empty_like(logits[:, 0], dtype=torch.bool)
    with torch.no_grad():
        for scores, row, out in zip(logits, candidates.tolist(), found, strict=True):
            inside = [channel for channel, candidate in enumerate(row) if candidate]
            best: Tensor | None = None
            for start in range(0, len(inside), _TOGETHER):
                part = scores[inside[start : start + _TOGETHER]].amax(0)
                best = part if best is None else torch.maximum(best, part)
            if best is None:
                torch.eq(scores.amax(0), scores.amax(0), out=out)  # all that is no NaN
            else:
                torch.gt(scores.amax(0), best, out=out)
    return found if valid is None else found.logical_and_(valid)


def check_logits(logits: Tensor, candidates: Tensor, valid: Tensor | None) -> None:
    """Raise a SegmendError unless the three fit together."""
    if logits.ndim < 3 or not logits.is_floating_point():
        raise SegmendError(
            f"logits: want float (N, K, H, W), got {logits.dtype} {tuple(logits.shape)}"
        )
    if candidates.shape != logits.shape[:2] or candidates.dtype != torch.bool:
        raise SegmendError(
            f"candidates: want bool {tuple(logits.shape[:2])} for logits {tuple(logits.shape)}, "
            f"got {candidates.dtype} {tuple(candidates.shape)}; see candidates_of"
        )
    where = (logits.shape[0], *logits.shape[2:])
    if valid is not None and (valid.shape != where or valid.dtype != torch.bool):
        raise SegmendError(f"valid: want bool {where}, got {valid.dtype} {tuple(valid.shape)}")


def _check_width(tags: Tensor, num_classes: int | None, background: int | None) -> None:
    if num_classes is None:
        return
    wanted = num_classes - (background is not None)
    if tags.shape[1] == wanted:
        return
    hint = ""
    if background is not None and tags.shape[1] == num_classes:
        hint = (
            f"; the background (label {background}) is no tag: leave its column out, or say "
            "background=None where every class can be a tag"
        )
    raise SegmendError(
        f"tags: want {wanted} columns for {num_classes} classes, got {tags.shape[1]}{hint}"
    )
