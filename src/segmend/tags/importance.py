"""Importance-sampling loss (ISL): the classifier judged at pixels drawn from its own maps."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.tags.activation import (
    Form,
    at_least_float32,
    check_background,
    check_form,
    check_maps,
    check_tags,
    check_valid,
)
from segmend.tags.pooling import Pooling, pool_scores

Sampling = Literal["published", "stratified", "exact"]

WEIGHT_FLOOR = 1e-5
"""Added to the sigmoid in the weights of the binomial form: every pixel can be drawn."""
PROBABILITY_EPSILON = 1e-3
"""Shrinks probabilities of the multinomial form before they become logits again."""


def importance_sampling_loss(
    logits: Tensor,
    tags: Tensor,
    *,
    num_samples: int = 10,
    form: Form = "binomial",
    sampling: Sampling = "published",
    background: int | None = 0,
    valid: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean cross-entropy of tags and logits at pixels drawn in proportion to the class's map.

    For each image and class, S pixels are drawn with probability P(k), no gradient through P or
    the draw; each is a prediction of its own, absent classes included.

    Args:
        logits: float (N, C, h, w) of the C classes that can be tagged, at the head's own
            resolution. Form "multinomial" with a background: (N, 1 + C, h, w), background first.
        tags: (N, C) in {0, 1}, bool or number.
        num_samples: S. Default 10 (HFPL); its multinomial predecessor takes 100.
        form: "binomial" (default): P ~ sigmoid(z) + 1e-5, cross-entropy of the logits.
            "multinomial": P ~ p, a softmax over channels; q = 0.999 p becomes the logit
            log(q + 0.001) - log(1 - q), the background is left out of the loss.
        sampling: "published" (default): independent draws with replacement. "stratified": S
            equally spaced quantiles of P row by row, one random offset an image and class; draws
            each pixel as often, neighbours seldom together, so that the gradient varies less at
            equal cost. "exact": the expectation, sum over k of P(k) times the cross-entropy: no
            draw, no variance.
        background: 0 (default) or None; of the multinomial form only.
        valid: bool (N, h, w): only these pixels are drawn. An image without any is in neither sum
            nor count. None (default): all.
        generator: of the draws, on the device of the logits. None: torch's own.

    Returns:
        float32 (or float64) scalar, computed in that precision under autocast, too; 0 with a
        graph if nothing is valid.

    Raises:
        SegmendError: a shape, dtype or option is not as above.

    Reference:
        Published code of HFPL (`tool/probutils.py`, `train_cam_voc.py`), and of ICAM.
        "stratified" and "exact" are ours, with the same expectation.
    """
    if sampling not in get_args(Sampling):
        raise SegmendError(f"sampling: want one of {get_args(Sampling)}, got {sampling!r}")
    if num_samples < 1:
        raise SegmendError(f"num_samples: want at least 1, got {num_samples}")
    with torch.autocast(logits.device.type, enabled=False):
        scores, target = _prepare(logits, tags, form, background, valid)
        known = _known(valid, scores)
        weights = _weights(scores.detach(), form, valid)
        if sampling == "exact":
            losses = _cross_entropy(scores, target, form)
            each = (losses * (weights / weights.sum(2, keepdim=True))).sum(2)
            return _mean(each, known)
        draw = _draw if sampling == "published" else _draw_stratified
        indices = draw(weights, num_samples, generator)
        return _mean(_cross_entropy(scores.gather(2, indices), target, form).mean(2), known)


def sampled_loss(
    logits: Tensor,
    tags: Tensor,
    indices: Tensor,
    *,
    form: Form = "binomial",
    background: int | None = 0,
) -> Tensor:
    """The loss at pixels that are given: `indices` int64 (N, C, S), y * w + x. See above."""
    scores, target = _prepare(logits, tags, form, background, None)
    return _cross_entropy(scores.gather(2, indices), target, form).mean()


class ImportanceSamplingLoss(nn.Module):
    """Classification loss (1 - weight) L_GAP + weight L_ISL of a tag classifier's maps.

    L_GAP is `pooling_loss`, L_ISL is `importance_sampling_loss`: see there for shapes, the other
    options and the reference.

    Args:
        weight: share of the ISL in [0, 1]. Default 0.2 (HFPL, VOC and COCO alike); the
            multinomial predecessor takes 0.8. At 0 or 1 the other part is not computed.
    """

    def __init__(
        self,
        *,
        weight: float = 0.2,
        num_samples: int = 10,
        form: Form = "binomial",
        sampling: Sampling = "published",
        pooling: Pooling = "mean",
        background: int | None = 0,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise SegmendError(f"weight: want a number in [0, 1], got {weight!r}")
        self.weight = weight
        self.num_samples = num_samples
        self.form: Form = form
        self.sampling: Sampling = sampling
        self.pooling: Pooling = pooling
        self.background = background

    def forward(
        self,
        logits: Tensor,
        tags: Tensor,
        *,
        valid: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        sampled = pooled = None
        if self.weight > 0:
            sampled = importance_sampling_loss(
                logits, tags, num_samples=self.num_samples, form=self.form, valid=valid,
                sampling=self.sampling, background=self.background, generator=generator,
            )  # fmt: skip
        if self.weight < 1:
            extra = int(self.form == "multinomial" and self.background is not None)
            pooled = pooling_loss(logits[:, extra:], tags, pooling=self.pooling, valid=valid)
        if sampled is None or pooled is None:
            return pooled if sampled is None else sampled  # type: ignore[return-value]
        return (1 - self.weight) * pooled + self.weight * sampled


def pooling_loss(
    logits: Tensor, tags: Tensor, *, pooling: Pooling = "mean", valid: Tensor | None = None
) -> Tensor:
    """Multi-label cross-entropy of tags and each map's score (`pool_scores`) over (valid) pixels.

    Shapes, precision, the empty case and errors: `importance_sampling_loss`, binomial form.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores, target = _prepare(logits, tags, "binomial", 0, valid)
        pooled = pool_scores(scores.reshape(logits.shape), pooling=pooling, valid=valid)
        return _mean(_cross_entropy(pooled, target.squeeze(2), "binomial"), _known(valid, scores))


average_pooling_loss = partial(pooling_loss, pooling="mean")


def _prepare(
    logits: Tensor, tags: Tensor, form: Form, background: int | None, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores (N, C, hw) of taggable classes and tags (N, C, 1), checked.

    Scores are logits, 0 where not valid, or in the multinomial form probabilities.
    """
    check_form(form)
    check_background(background)
    check_maps("logits", logits)
    extra = int(form == "multinomial" and background is not None)
    check_tags(tags, logits, extra=extra)
    scores = at_least_float32(logits)
    if valid is not None:
        check_valid(valid, logits)
        scores = scores.masked_fill(~valid.unsqueeze(1), 0)
    if form == "multinomial":
        scores = torch.softmax(scores, 1)[:, extra:]
    return scores.flatten(2), tags.to(scores.dtype).unsqueeze(2)


def _known(valid: Tensor | None, scores: Tensor) -> Tensor | None:
    """bool (N, 1): images with a valid pixel; None where nothing was said."""
    return None if valid is None else valid.flatten(1).any(1, keepdim=True)


def _weights(scores: Tensor, form: Form, valid: Tensor | None) -> Tensor:
    """What pixels are drawn in proportion to, (N, C, hw): never all 0."""
    weights = torch.sigmoid(scores) + WEIGHT_FLOOR if form == "binomial" else scores
    if valid is not None:
        weights = weights * valid.flatten(1).unsqueeze(1)
    # a softmax can underflow in all of a map; an image may have no valid pixel
    return weights.masked_fill(weights.sum(2, keepdim=True) <= 0, 1)


def _cross_entropy(scores: Tensor, target: Tensor, form: Form) -> Tensor:
    """Binary cross-entropy of logits, or of probabilities made logits, element by element."""
    if form == "multinomial":
        shrunk = scores * (1 - PROBABILITY_EPSILON)
        scores = torch.log(shrunk + PROBABILITY_EPSILON) - torch.log1p(-shrunk)
    return F.binary_cross_entropy_with_logits(scores, target.expand_as(scores), reduction="none")


def _draw(weights: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Pixels drawn independently, with replacement: int64 (N, C, S)."""
    drawn = torch.multinomial(
        weights.flatten(0, 1), num_samples, replacement=True, generator=generator
    )
    return drawn.reshape(*weights.shape[:2], num_samples)


def _draw_stratified(
    weights: Tensor, num_samples: int, generator: torch.Generator | None
) -> Tensor:
    """Systematic sampling of the pixels in their order: int64 (N, C, S).

    The order of the logits instead makes the loss vary least, but not its gradient, and a sort
    costs more than all the rest.
    """
    sums, steps = weights.cumsum(2), torch.arange(num_samples, device=weights.device)
    offset = torch.rand(
        (*weights.shape[:2], 1), generator=generator, device=weights.device, dtype=sums.dtype
    )
    total = sums[:, :, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))  # else rounding could pass the end
    at = torch.minimum((steps + offset) / num_samples * total, below)
    return torch.searchsorted(sums, at, right=True)


def _mean(each: Tensor, known: Tensor | None) -> Tensor:
    """Mean over (N, C), over known images only; 0 with a graph if there is none."""
    if known is None:
        return each.mean()
    return each.masked_fill(~known, 0).sum() / (known.sum() * each.shape[1]).clamp(min=1)
