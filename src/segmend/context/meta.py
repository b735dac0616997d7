"""The meta-gradient: which context labels would have made the segmenter's next step better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segmend.context.functional import (
    Functional,
    Tangents,
    Weights,
    climb_down,
    moved_levels,
    own_randomness,
    tangents_double,
    tangents_forward,
)
from segmend.context.labels import context_targets
from segmend.context.loss import Dice, context_loss, level_weights, meta_objective
from segmend.errors import SegmendError
from segmend.models.single_volume import quick_single_volumes

Method = Literal["auto", "forward", "double", "differences", "published"]
Inner = Callable[[list[Tensor], list[Tensor]], Tensor]

PUBLISHED_RADIUS = 1e-2
"""Length of the published code's step to either side, for finite differences."""


@dataclass(frozen=True)
class MetaGradient:
    """What `meta_gradient` found.

    gradients: one a parameter of the generator, to be descended.
    objective: the meta-objective after the virtual step; loss: the segmenter's before it.
    method: the rung that was used.
    """

    gradients: tuple[Tensor, ...]
    objective: Tensor
    loss: Tensor
    method: str


def meta_gradient(
    model: nn.Module,
    generator: nn.Module,
    images: Tensor,
    target: Tensor,
    *,
    inner_lr: float,
    num_classes: int = 2,
    mask: Tensor | None = None,
    outer_images: Tensor | None = None,
    outer_target: Tensor | None = None,
    dice: Dice = "published",
    weights: Sequence[float] | None = None,
    ignore_index: int = 255,
    method: Method = "auto",
) -> MetaGradient:
    """d L_val(w - a dL/dw) / d generator, for the segmenter's weights w and learning rate a.

    L is `context_loss` on the labels that the generator gives, L_val is `meta_objective`. The
    derivative of <v, dL/dw>, v = dL_val/dw after the step, is that of <dL/dz, J v> in the labels
    alone, z the logits and J v their change as w moves along v: one forward-mode product through
    the segmenter, then one reverse pass through labels and generator. It is exact, keeps none of
    the segmenter's activations, and changes neither weights nor running statistics.

    Args:
        model: segmenter; float (N, ...) to logits (N, M, *size) of the images' size, or a list of
            levels. It must not share weights with the generator.
        generator: context logits (N, K, *size).
        images, target, mask: of the inner loss; target int64 (N, *size), mask of `distance_mask`.
        inner_lr: a, published: the segmenter's learning rate now. Its step has neither momentum,
            weight decay nor clipping, as published.
        outer_images, outer_target: of the meta-objective; None (default, published): the same.
        dice, weights: of `context_loss`.
        method: "forward" (as above), "double" (J v by two reverse passes: exact, twice the time),
            "differences" (central differences of the label gradients at weights moved by 1e-3, in
            double precision 1e-6), "published" (the same at 1e-2: 1 to 13 % off), or "auto"
            (default): the first of the first three that the model's operators allow, with a
            warning where that is not the first.
    Returns:
        `MetaGradient`.
    Raises:
        SegmendError: shapes or options that do not fit together.
    Source: the published code, whose step is "published"; exact form ours.
    """
    if method not in get_args(Method):
        raise SegmendError(f"method: want one of {get_args(Method)}, got {method!r}")
    if (outer_images is None) != (outer_target is None):
        raise SegmendError("outer_images, outer_target: want both or neither")
    with torch.enable_grad(), own_randomness(images.device):
        network = Functional(model, images.device)
        start = {name: w.clone().requires_grad_() for name, w in network.weights.items()}
        levels = network(start, images)
        with quick_single_volumes(images):
            context = generator(images).softmax(1)
        labels, valid = context_targets(
            target,
            context,
            [z.shape[2:] for z in levels],
            num_classes=num_classes,
            mask=mask,
            ignore_index=ignore_index,
        )
        weights = level_weights(len(levels)) if weights is None else weights
        inner = partial(
            context_loss, valid=valid, num_classes=num_classes, dice=dice, weights=weights
        )
        loss = inner(levels, [y.detach() for y in labels])
        slope = torch.autograd.grad(loss, list(start.values()), allow_unused=True)
        del levels
        after = {
            name: w.detach() if g is None else w.detach() - inner_lr * g
            for (name, w), g in zip(start.items(), slope, strict=True)
        }
        outer = (images, target)
        if outer_images is not None and outer_target is not None:
            outer = (outer_images, outer_target)
        objective, direction = _outer_slope(network, after, outer, num_classes, ignore_index)
        used, wanted = label_gradients(network, direction, images, labels, inner, method=method)
        found = generator_gradients(generator, labels, [-inner_lr * g for g in wanted])
    return MetaGradient(found, objective, loss.detach(), used)


def label_gradients(
    network: Functional,
    direction: Weights,
    images: Tensor,
    labels: Sequence[Tensor],
    inner: Inner,
    *,
    method: Method = "auto",
) -> tuple[str, list[Tensor]]:
    """d <direction, d inner / d weights> / d labels, a level each, and the method that gave it.

    Args:
        direction: a change of weights by name; left out is 0.
        inner: scalar loss of (levels of logits, levels of labels).
    """
    truths = [y.detach() for y in labels]
    if not any(bool(d.any()) for d in direction.values()):
        return "none", [torch.zeros_like(y) for y in truths]

    def exact(tangents: Callable[[Functional, Weights, Tensor], Tangents]) -> list[Tensor]:
        levels, moved = tangents(network, direction, images)
        return _slope_along(levels, moved, truths, inner)

    rungs: list[tuple[str, Callable[[], list[Tensor]]]] = [
        ("forward", partial(exact, tangents_forward)),
        ("double", partial(exact, tangents_double)),
        ("differences", partial(_differences, network, direction, images, truths, inner)),
    ]
    if method == "auto":
        return climb_down(network, rungs)
    if method == "published":
        return method, _differences(
            network, direction, images, truths, inner, radius=PUBLISHED_RADIUS
        )
    return method, dict(rungs)[method]()


def generator_gradients(
    generator: nn.Module, labels: Sequence[Tensor], wanted: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """One reverse pass from the labels' gradients to the generator's trainable parameters."""
    parameters = [p for p in generator.parameters() if p.requires_grad]
    if not parameters:
        raise SegmendError("generator: has no trainable parameters, so none has a gradient")
    found = torch.autograd.grad(labels, parameters, grad_outputs=wanted, allow_unused=True)
    return tuple(
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
    )


def _outer_slope(
    network: Functional,
    weights: Weights,
    outer: tuple[Tensor, Tensor],
    num_classes: int,
    ignore_index: int,
) -> tuple[Tensor, Weights]:
    """The meta-objective and its gradient in the weights; those it does not reach are left out."""
    leaves = {name: w.requires_grad_() for name, w in weights.items()}
    logits = network(leaves, outer[0])[0]
    objective = meta_objective(logits, outer[1], num_classes=num_classes, ignore_index=ignore_index)
    slope = torch.autograd.grad(objective, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves, slope, strict=True)
    return objective.detach(), {name: g for name, g in pairs if g is not None}


def _slope_along(
    levels: list[Tensor], moved: list[Tensor], truths: list[Tensor], inner: Inner
) -> list[Tensor]:
    """d <d inner / d levels, moved> / d truths."""
    scores = [z.detach().requires_grad_() for z in levels]
    truths = [y.requires_grad_() for y in truths]
    slope = torch.autograd.grad(inner(scores, truths), scores, create_graph=True, allow_unused=True)
    along = [(g * m).sum() for g, m in zip(slope, moved, strict=True) if g is not None]
    found = torch.autograd.grad(torch.stack(along).sum(), truths, allow_unused=True)
    return [torch.zeros_like(y) if g is None else g for y, g in zip(truths, found, strict=True)]


def _differences(
    network: Functional,
    direction: Weights,
    images: Tensor,
    truths: list[Tensor],
    inner: Inner,
    *,
    radius: float | None = None,
) -> list[Tensor]:
    """Central differences of d inner / d truths; one reverse pass through labels is left to do."""
    norm = torch.stack([d.double().square().sum() for d in direction.values()]).sum().sqrt()
    if radius is None:
        double = all(d.dtype == torch.float64 for d in direction.values())
        radius = 1e-6 if double else 1e-3
    step = float(radius / norm)
    sides = []
    for sign in (1.0, -1.0):
        levels = moved_levels(network, direction, images, sign * step)
        leaves = [y.detach().requires_grad_() for y in truths]
        found = torch.autograd.grad(inner(levels, leaves), leaves, allow_unused=True)
        sides.append(found)
    return [
        torch.zeros_like(y) if a is None or b is None else (a - b) / (2 * step)
        for y, a, b in zip(truths, *sides, strict=True)
    ]
