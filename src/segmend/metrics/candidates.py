"""Out-of-candidate pixels: labels of classes that the image's tags rule out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from segmend.errors import SegmendError


class OutOfCandidateRates(NamedTuple):
    """Shares in [0, 1], float64; NaN where there is nothing to take a share of.

    of_pixels: out-of-candidate pixels among all valid pixels of the set.
    of_foreground: among the valid pixels that were predicted as foreground.
    of_images: images with at least one such pixel, among images with any valid pixel.
    num_images: images seen.
    """

    of_pixels: Tensor
    of_foreground: Tensor
    of_images: Tensor
    num_images: Tensor


def out_of_candidate_counts(
    prediction: Tensor,
    tags: Tensor,
    *,
    valid: Tensor | None = None,
    background: int | None = 0,
) -> Tensor:
    """How many pixels of each image carry a class that is not among the image's tags.

    Args:
        prediction: labels in [0, K); integer (N, H, W). With a background K is C + 1, else C.
        tags: {0, 1}, any type (N, C), over the classes without the background, in label order.
            Of a mask they are its classes (`tags_of`), so that a val split can be scored too.
        valid: bool (N, H, W), pixels that count; commonly `target != 255`. None counts all.
        background: its label, always a candidate; None where every class can be a tag (all
            pixels are then foreground).
    Returns:
        int64 (N, 3): [out of candidates, foreground, valid] pixels. An image without tags has
        no candidate but the background.
    Raises:
        SegmendError: shapes or types differ from the above, a tag is neither 0 nor 1, a valid
            pixel's label is outside the classes.
    Source:
        Cheng et al., CVPR 2023 (OCR), section 3.1, name these pixels; the rates are ours.
    """
    candidates = _candidates(tags, background=background)
    valid = torch.ones_like(prediction, dtype=torch.bool) if valid is None else valid
    _check(prediction, candidates, valid)
    labels = prediction.long().masked_fill(~valid, 0)
    image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    out = valid & ~candidates[image, labels]
    foreground = valid if background is None else valid & (labels != background)
    return torch.stack([x.flatten(1).sum(1) for x in (out, foreground, valid)], dim=1)


def out_of_candidate_rates(counts: Tensor) -> OutOfCandidateRates:
    """The rates of a set from rows of `out_of_candidate_counts`, (N, 3)."""
    touched = torch.stack((counts[:, 0] > 0, counts[:, 2] > 0), dim=1).sum(0)
    return _rates(counts.sum(0), touched, torch.tensor(len(counts)))


class OutOfCandidateRate(Metric):
    """`OutOfCandidateRates` of a stream of batches; keeps sums only.

    `update(prediction, tags, valid=None)` and the arguments as in `out_of_candidate_counts`.
    """

    full_state_update = False
    higher_is_better = False
    counts: Tensor
    touched: Tensor
    num_images: Tensor

    def __init__(self, *, background: int | None = 0) -> None:
        super().__init__()
        self.background = background
        zero = torch.zeros(3, dtype=torch.int64)
        self.add_state("counts", zero, dist_reduce_fx="sum")
        self.add_state("touched", zero[:2].clone(), dist_reduce_fx="sum")
        self.add_state("num_images", zero[0].clone(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, tags: Tensor, valid: Tensor | None = None) -> None:
        """Add a batch: labels (N, H, W), tags (N, C), valid pixels (N, H, W)."""
        counts = out_of_candidate_counts(prediction, tags, valid=valid, background=self.background)
        self.counts += counts.sum(0)
        self.touched += (counts[:, [0, 2]] > 0).sum(0)
        self.num_images += len(counts)

    def compute(self) -> OutOfCandidateRates:
        """Rates of all that was seen."""
        return _rates(self.counts, self.touched, self.num_images)


def _rates(counts: Tensor, touched: Tensor, num_images: Tensor) -> OutOfCandidateRates:
    out, foreground, valid = counts.double()
    with_any, with_valid = touched.double()
    return OutOfCandidateRates(
        out / valid, out / foreground, with_any / with_valid, num_images
    )  # 0 / 0 is NaN


def _candidates(tags: Tensor, *, background: int | None) -> Tensor:
    """Bool (N, K): the tags with the background, always True, at its label."""
    if tags.ndim != 2:
        raise SegmendError(f"tags: want (N, C), got {tuple(tags.shape)}")
    if bool(((tags != 0) & (tags != 1)).any()):
        row, column = (int(i) for i in ((tags != 0) & (tags != 1)).nonzero()[0])
        raise SegmendError(
            f"tags: want 0 or 1, found {float(tags[row, column]):g} at index ({row}, {column})"
        )
    if background is None:
        return tags.bool()
    if not 0 <= background <= tags.shape[1]:
        raise SegmendError(f"background: want a label 0..{tags.shape[1]}, got {background}")
    always = torch.ones_like(tags[:, :1], dtype=torch.bool)
    return torch.cat((tags[:, :background].bool(), always, tags[:, background:].bool()), dim=1)


def _check(prediction: Tensor, candidates: Tensor, valid: Tensor) -> None:
    if prediction.ndim != 3 or prediction.is_floating_point():
        raise SegmendError(
            "prediction: want integer labels (N, H, W), got "
            f"{prediction.dtype} {tuple(prediction.shape)}"
        )
    if valid.shape != prediction.shape or valid.dtype != torch.bool:
        raise SegmendError(
            f"valid: want bool {tuple(prediction.shape)}, got {valid.dtype} {tuple(valid.shape)}"
        )
    if len(candidates) != len(prediction):
        raise SegmendError(f"tags: want {len(prediction)} rows, got {len(candidates)}")
    num_classes = candidates.shape[1]
    wrong = valid & ((prediction < 0) | (prediction >= num_classes))
    if bool(wrong.any()):
        where = tuple(int(i) for i in wrong.nonzero()[0])
        raise SegmendError(
            f"prediction: label {int(prediction[where])} at index {where} is outside "
            f"0..{num_classes - 1}; {num_classes} classes follow from the tags"
        )
