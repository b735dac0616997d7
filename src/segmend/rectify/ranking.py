"""The forms of group ranking, one number a pixel, with their gradients in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.rectify.groups import Groups

Form = Literal["all", "any", "foreground", "max", "hinge"]

FLOOR = -1e30  # stands for a class that is not in a group; minus infinity would make NaN


def group_ranking(scores: Tensor, groups: Groups, *, form: Form, margin: float = 0.0) -> Tensor:
    """The loss of each pixel from its logits, float (M, K): float (M,), 0 where a group is empty.

    Forms as in `rectification_loss`; "foreground" wants the background in neither group.
    """
    if form not in get_args(Form):
        raise SegmendError(f"form: want one of {get_args(Form)}, got {form!r}")
    return _FORMS[form](scores, groups, margin)


class _SoftRanking(torch.autograd.Function):
    """softplus(margin + LSE_O(s) ± LSE_I(± s)) and its gradient, from one exponential a logit.

    With g the sigmoid of the argument, the gradient on O is g * softmax_O(s), and on I
    -g * softmax_I(± s): the two cancel, so that no constant matters.
    """

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, inside: Tensor, outside: Tensor, margin: float, sign: float
    ) -> Tensor:
        gap = torch.full_like(scores[:, 0], margin)
        both = torch.ones_like(gap, dtype=torch.bool)
        weights: list[Tensor] = []
        for group, way, turn in ((outside, 1.0, 1.0), (inside, -sign, sign)):
            # Adding (1 or 0 - 1) * 1e30 is several times faster than filling by a mask.
            there = group.view(torch.uint8).to(scores.dtype)  # so, several times faster again
            part = there.sub(1).mul_(-FLOOR).add_(scores, alpha=turn)
            most = part.amax(1, keepdim=True)
            both &= most[:, 0] > FLOOR / 2
            # An exponential that underflows is several times slower; e^-80 is lost beside the
            # largest term, 1, and what is in no group becomes exactly 0.
            part = part.sub_(most).clamp_(min=-80).exp_().mul_(there)
            total = part.sum(1, keepdim=True).clamp_(min=1)  # less only where a group is empty
            gap = gap.add_((total.log() + most)[:, 0], alpha=way)
            weights.append(part.mul_(turn * way / total))
        gap = gap.masked_fill_(~both, FLOOR)  # softplus and sigmoid are 0 there
        slopes = weights[0].add_(weights[1]).mul_(gap.sigmoid()[:, None])
        ctx.save_for_backward(slopes)
        return F.softplus(gap)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * grad[:, None], None, None, None, None


def _all_form(scores: Tensor, groups: Groups, margin: float) -> Tensor:
    loss: Tensor = _SoftRanking.apply(scores, groups.inside, groups.outside, margin, -1.0)
    return loss


def _any_form(scores: Tensor, groups: Groups, margin: float) -> Tensor:
    loss: Tensor = _SoftRanking.apply(scores, groups.inside, groups.outside, margin, 1.0)
    return loss


def _max_form(scores: Tensor, groups: Groups, margin: float) -> Tensor:
    inside, outside = (scores.masked_fill(~group, FLOOR).amax(1) for group in groups)
    both = groups.inside.any(1) & groups.outside.any(1)
    return F.softplus((margin + outside - inside).where(both, FLOOR))


def _hinge_form(scores: Tensor, groups: Groups, margin: float) -> Tensor:
    """One candidate after the other: the pairs at once would be (M, K, K)."""
    total = scores.sum(1) * 0
    most = int(groups.inside.sum(1).max()) if len(scores) else 0
    there, index = groups.inside.to(torch.uint8).topk(most, dim=1)
    for number in range(most):
        rival = scores.gather(1, index[:, number : number + 1])
        pairs = groups.outside & there[:, number : number + 1].bool()
        total = total + F.relu(margin + scores - rival).masked_fill(~pairs, 0.0).sum(1)
    return total


_FORMS: dict[str, Callable[[Tensor, Groups, float], Tensor]] = {
    "all": _all_form,
    "any": _any_form,
    "foreground": _any_form,
    "max": _max_form,
    "hinge": _hinge_form,
}
