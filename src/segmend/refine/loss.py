"""The published training losses of PatchRefineNet, computed from logits."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.refine.network import RefinedLogits

ArgumentOrder = Literal["intended", "swapped"]

FOCAL_SCALE = 0.75
"""1 - 0.25: the original's alpha, applied to both classes alike."""
FOCAL_GAMMA = 2
FOCAL_WEIGHT = 0.7
"""Share of the focal part in the region-specific loss; the edge part has the rest."""
FOREGROUND_WEIGHT = 1.12
PSEUDO_LABEL_WEIGHT = 0.7
"""Share of the pseudo-label part in the total; the part against the masks has the rest."""

_LOG_FLOOR = -100.0  # torch's own clamp of log(0) inside binary cross-entropy
_LOG_EPSILON = -34.538776394910684  # log(1e-15), the original's clamp in the regularisation loss


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    *,
    argument_order: ArgumentOrder = "intended",
) -> Tensor:
    """Mean of 0.75 (1 - exp(-l))^2 l over valid pixels, l being a pixel's cross-entropy.

    Args:
        logits: float (N, C, H, W).
        labels: 0 or 1, any dtype, (N, C, H, W), or (N, H, W) where C is 1.
        valid: bool in the shape of `labels`; a pixel that is not valid is in neither sum nor
            count, whatever its logit and label. None (default): all are. Nothing valid gives 0.
        argument_order: "intended" (default), or "swapped" to reproduce the published training
            script, which passes labels as predictions: there l = 100 |p - y|.

    Returns:
        float32 (or float64) scalar.

    Raises:
        SegmendError: shapes, dtype or `argument_order` are not as above.

    Reference:
        arXiv 2211.06560 and the constants of its published code.
    """
    logits, labels, valid = _prepare(logits, labels, valid, argument_order)
    if argument_order == "swapped":
        cross_entropy = -_LOG_FLOOR * (torch.sigmoid(logits) - labels).abs()
    else:
        cross_entropy = F.softplus(logits) - labels * logits
    wrongness = -torch.expm1(-cross_entropy)
    return _mean(FOCAL_SCALE * wrongness**FOCAL_GAMMA * cross_entropy, valid)


def edge_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    *,
    argument_order: ArgumentOrder = "intended",
) -> Tensor:
    """Mean cross-entropy between the edge maps of probabilities and labels.

    The edge map is relu(tanh(K * p)), K the 3x3 Laplacian (8 in the centre, -1 around it), zeros
    outside the image. Its logarithms are taken before tanh saturates; log 0 counts -100 as in
    torch, without a gradient. A pixel is left out where its 3x3 neighbourhood (inside the image)
    holds a pixel that is not valid: its edge is unknown. Arguments, result, errors: `focal_loss`.
    """
    logits, labels, valid = _prepare(logits, labels, valid, argument_order)
    known = F.max_pool2d((~valid).to(logits.dtype), kernel_size=3, stride=1, padding=1) == 0
    predicted = _laplacian(torch.sigmoid(logits).masked_fill(~valid, 0))
    wanted = _laplacian(labels)
    if argument_order == "swapped":
        predicted, wanted = wanted, predicted
    log_edge, log_flat = _log_edge_map(predicted)
    edge = torch.tanh(F.relu(wanted))
    return _mean(-(edge * log_edge + (1 - edge) * log_flat), known)


def region_specific_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    *,
    focal_weight: float = FOCAL_WEIGHT,
    argument_order: ArgumentOrder = "intended",
) -> Tensor:
    """L_RS: `focal_weight` (published 0.7) of `focal_loss` plus the rest of `edge_loss`.

    Arguments, result, errors: `focal_loss`.
    """
    focal = focal_loss(logits, labels, valid, argument_order=argument_order)
    edge = edge_loss(logits, labels, valid, argument_order=argument_order)
    return focal_weight * focal + (1 - focal_weight) * edge


def regularisation_loss(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    *,
    foreground_weight: float = FOREGROUND_WEIGHT,
    argument_order: ArgumentOrder = "intended",
) -> Tensor:
    """L_reg: mean cross-entropy with foreground weighted by 1.12.

    The original adds 1e-15 inside its logarithms; from logits they need no such floor, so that a
    pixel that is certain and wrong keeps its gradient. "swapped" keeps the floor: there it is the
    loss, 34.5 times the weighted distance. Other arguments, result, errors: `focal_loss`.
    """
    logits, labels, valid = _prepare(logits, labels, valid, argument_order)
    if argument_order == "swapped":
        probs = torch.sigmoid(logits)
        misses = foreground_weight * probs * (1 - labels) + (1 - probs) * labels
        return _mean(-_LOG_EPSILON * misses, valid)
    foreground = foreground_weight * labels * F.logsigmoid(logits)
    return _mean(-foreground - (1 - labels) * F.logsigmoid(-logits), valid)


def patch_refine_loss(
    refined: RefinedLogits,
    pseudo_labels: Tensor,
    labels: Tensor,
    *,
    pseudo_valid: Tensor | None = None,
    valid: Tensor | None = None,
    pseudo_label_weight: float = PSEUDO_LABEL_WEIGHT,
    argument_order: ArgumentOrder = "intended",
) -> Tensor:
    """0.7 L_RS(output, pseudo-labels) + 0.3 L_reg(output, labels), mean over the outputs there are.

    Args:
        refined: output of PatchRefineNet, logits (N, 1, H, W) each.
        pseudo_labels: 0 or 1, (N, H, W) or (N, 1, H, W), from `patch_pseudo_labels`.
        labels: ground truth in the same form.
        pseudo_valid, valid: bool masks of `pseudo_labels` and of `labels`, see `focal_loss`.
        pseudo_label_weight: 0.7 as published; 0 trains on the masks alone.
        argument_order: see `focal_loss`.

    Returns, raises: see `focal_loss`.
    """
    outputs = [refined.global_] if refined.local is None else [refined.global_, refined.local]
    totals = []
    for logits in outputs:
        against_pseudo = region_specific_loss(
            logits, pseudo_labels, pseudo_valid, argument_order=argument_order
        )
        against_masks = regularisation_loss(logits, labels, valid, argument_order=argument_order)
        totals.append(torch.lerp(against_masks, against_pseudo, pseudo_label_weight))
    return torch.stack(totals).mean()


class PatchRefineLoss(nn.Module):
    """`patch_refine_loss` of targets with an ignore index; shapes, result, errors: see there.

    `forward(refined, pseudo_labels, target)`: integer tensors (N, H, W) with values 0, 1 and
    `ignore_index`, each ignored where it says so itself.
    """

    def __init__(
        self,
        *,
        pseudo_label_weight: float = PSEUDO_LABEL_WEIGHT,
        argument_order: ArgumentOrder = "intended",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        _check_order(argument_order)
        if not 0 <= pseudo_label_weight <= 1:
            raise SegmendError(
                f"pseudo_label_weight: want a number in [0, 1], got {pseudo_label_weight!r}"
            )
        self.pseudo_label_weight = pseudo_label_weight
        self.argument_order: ArgumentOrder = argument_order
        self.ignore_index = ignore_index

    def forward(self, refined: RefinedLogits, pseudo_labels: Tensor, target: Tensor) -> Tensor:
        return patch_refine_loss(
            refined,
            pseudo_labels,
            target,
            pseudo_valid=pseudo_labels != self.ignore_index,
            valid=target != self.ignore_index,
            pseudo_label_weight=self.pseudo_label_weight,
            argument_order=self.argument_order,
        )


def _laplacian(maps: Tensor) -> Tensor:
    """8 times a pixel minus its 8 neighbours, zeros outside; float (N, C, H, W)."""
    kernel = maps.new_full((1, 1, 3, 3), -1.0)
    kernel[..., 1, 1] = 8.0
    with torch.autocast(maps.device.type, enabled=False):  # differences need their last digits
        return F.conv2d(maps.flatten(0, 1).unsqueeze(1), kernel, padding=1).reshape(maps.shape)


def _log_edge_map(steps: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of e and of 1 - e, where e = relu(tanh(steps))."""
    rising = steps > 0
    safe = torch.where(rising, steps, 1.0)
    log_edge = torch.where(rising, safe.tanh().log().clamp(min=_LOG_FLOOR), _LOG_FLOOR)
    log_flat = torch.log(steps.new_tensor(2.0)) - F.softplus(2 * safe)
    return log_edge, torch.where(rising, log_flat, 0.0)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def _check_order(argument_order: str) -> None:
    if argument_order not in get_args(ArgumentOrder):
        raise SegmendError(f"argument_order: want 'intended' or 'swapped', got {argument_order!r}")


def _prepare(
    logits: Tensor, labels: Tensor, valid: Tensor | None, argument_order: str
) -> tuple[Tensor, Tensor, Tensor]:
    """All three as (N, C, H, W), at least float32, with zeros where nothing is valid."""
    _check_order(argument_order)
    if logits.ndim != 4 or not logits.is_floating_point():
        raise SegmendError(
            f"logits: want float (N, C, H, W), got {logits.dtype} {tuple(logits.shape)}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if valid is None:
        valid = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    if valid.shape != labels.shape or valid.dtype != torch.bool:
        raise SegmendError(
            f"valid: want torch.bool in the shape of the labels {tuple(labels.shape)}, "
            f"got {valid.dtype} {tuple(valid.shape)}"
        )
    if labels.ndim == 3:
        labels, valid = labels.unsqueeze(1), valid.unsqueeze(1)
    if labels.shape != logits.shape:
        raise SegmendError(
            f"labels: want the shape of the logits {tuple(logits.shape)}, "
            f"or that without C where C is 1, got {tuple(labels.shape)}"
        )
    labels = labels.to(logits.dtype).masked_fill(~valid, 0)
    return logits.masked_fill(~valid, 0), labels, valid
