"""What every metric asks of its input, said once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segmend.errors import SegmendError


class Labels(NamedTuple):
    """Checked labels: int64 `prediction` and `target`, 0 wherever `valid` is False."""

    prediction: Tensor
    target: Tensor
    valid: Tensor


def check_labels(
    prediction: Tensor, target: Tensor, *, num_classes: int, ignore_index: int
) -> Labels:
    """Labels in range, with the ignored pixels set to 0 and marked in `valid`.

    Args:
        prediction: hard labels in [0, num_classes); integer or bool (N, H, W).
        target: labels in [0, num_classes) or `ignore_index`; integer or bool (N, H, W).
        num_classes: at least 2; background counts as one.
        ignore_index: label of pixels that count nowhere, whatever was predicted there.
    Raises:
        SegmendError: shapes differ, a dtype is floating, or a valid pixel's label is out of range.
    """
    if num_classes < 2:
        raise SegmendError(f"num_classes: want at least 2 (background counts), got {num_classes}")
    check_same_shape("prediction", prediction, target)
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point() or labels.is_complex():
            raise SegmendError(
                f"{name}: want integer or bool labels, got {labels.dtype}; "
                "threshold or argmax probabilities first"
            )
    target, prediction = target.long(), prediction.long()
    valid = target != ignore_index
    if not all_true(valid):
        target, prediction = (x.masked_fill(~valid, 0) for x in (target, prediction))
    for name, labels in (("prediction", prediction), ("target", target)):
        _check_range(name, labels, num_classes, ignore_index)
    return Labels(prediction, target, valid)


def check_same_shape(name: str, prediction: Tensor, target: Tensor) -> None:
    """Raise unless both are (N, H, W) of one shape."""
    if target.ndim != 3:
        raise SegmendError(f"target: want (N, H, W), got {tuple(target.shape)}")
    if prediction.shape != target.shape:
        raise SegmendError(
            f"{name}: want the target's shape {tuple(target.shape)}, "
            f"got {tuple(prediction.shape)}; resize the prediction to the target first"
        )


def check_probs(name: str, probs: Tensor, valid: Tensor) -> None:
    """Raise unless every valid pixel's value is a finite number in [0, 1]."""
    if not probs.is_floating_point():
        raise SegmendError(f"{name}: want floating point in [0, 1], got {probs.dtype}")
    wrong = valid & ~((probs >= 0) & (probs <= 1))
    if bool(wrong.any()):
        where = tuple(int(i) for i in wrong.nonzero()[0])
        raise SegmendError(
            f"{name}: want probabilities in [0, 1], found {float(probs[where]):.6g} at index "
            f"{where}; apply sigmoid or softmax to logits first"
        )


def _check_range(name: str, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    if labels.numel() == 0:
        return
    low, high = (int(x) for x in labels.aminmax())
    if low >= 0 and high < num_classes:
        return
    where = tuple(int(i) for i in ((labels < 0) | (labels >= num_classes)).nonzero()[0])
    raise SegmendError(
        f"{name}: label {int(labels[where])} at index {where} is outside 0..{num_classes - 1}; "
        f"raise num_classes, or mark pixels to skip in the target with {ignore_index}"
    )


def split_binary(probs: Tensor, target: Tensor, *, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(foreground, valid), both bool (N, H, W), of a binary target under `probs` (N, H, W).

    Raises:
        SegmendError: shapes differ, a probability outside [0, 1], a target label beyond 1.
    """
    check_same_shape("probs", probs, target)
    target = target.long()
    valid = target != ignore_index
    check_probs("probs", probs, valid)
    target = target.masked_fill(~valid, 0)
    _check_range("target", target, 2, ignore_index)
    return target == 1, valid


def all_true(mask: Tensor) -> bool:
    """Whether a bool tensor is True everywhere; on bytes `amin` is twenty times faster than all."""
    return mask.numel() == 0 or bool(mask.contiguous().view(torch.uint8).amin())


def single_channel(probs: Tensor) -> Tensor:
    """(N, H, W) from (N, 1, H, W) or (N, H, W): both spellings of a binary map."""
    return probs.squeeze(1) if probs.ndim == 4 and probs.shape[1] == 1 else probs


def score_histogram(scores: Tensor, foreground: Tensor, valid: Tensor, *, levels: int) -> Tensor:
    """How many background and foreground pixels lie on each quantised score, image by image.

    Args:
        scores: float in [0, 1], (N, H, W); quantised as `round(score * (levels - 1))`.
        foreground, valid: bool (N, H, W).
    Returns:
        int64 (N, 2, levels): [:, 0] background, [:, 1] foreground.
    """
    num_images = len(scores)
    clean = scores.masked_fill(~valid, 0.0)
    precise = torch.promote_types(scores.dtype, torch.float32)
    level = (clean.to(precise) * (levels - 1)).round_().long()
    image = torch.arange(num_images, device=scores.device).view(-1, 1, 1)
    cell = (image * 2 + foreground) * levels + level
    return torch.bincount(cell[valid], minlength=num_images * 2 * levels).view(
        num_images, 2, levels
    )
