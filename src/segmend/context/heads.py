"""Room for contexts in a network that was made for ordinary classes: its last layer widened."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segmend.context.labels import count_channels
from segmend.errors import SegmendError
from segmend.models.segmenters import Segmenter

_KINDS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
Head = (
    nn.Conv1d
    | nn.Conv2d
    | nn.Conv3d
    | nn.ConvTranspose1d
    | nn.ConvTranspose2d
    | nn.ConvTranspose3d
    | nn.Linear
)


def widen_head(
    model: nn.Module, num_context: int, *, names: Sequence[str] | None = None
) -> nn.Module:
    """Give a network's last layer K - 1 more channels, in place; build its optimiser after that.

    Its C + 1 channels stay what they were. The new contexts start as copies of the background,
    each background's bias lowered by log K: the probability of the foreground is as before. A
    single foreground logit becomes K backgrounds of logit 0 (less log K) and the foreground, whose
    softmax is the sigmoid that it was.

    Args:
        model: any module; its last layer is a convolution or linear layer, or several of them
            (deep supervision).
        num_context: K.
        names: of the layers, as in `named_modules`. None: the last layer in the order of
            definition, and with two or more channels every other one of as many output channels.
    Returns:
        The same model, with num_classes + K - 1 logits in the order of `compose_context_labels`.
    Raises:
        SegmendError: no such layer, or one with groups.
    """
    heads = _find(model) if names is None else _named(model, names)
    classes = _out(next(iter(heads.values())))
    count_channels(num_classes=max(classes, 2), num_context=num_context)
    for name, head in heads.items():
        parent, _, attribute = name.rpartition(".")
        wide = _widened(name, head, num_context)
        if not name:
            raise SegmendError("widen_head: the model is a single layer; wrap it in nn.Sequential")
        setattr(model.get_submodule(parent), attribute, wide)
    for module in model.modules():
        if isinstance(module, Segmenter) and module.spec is not None:
            module.spec = replace(module.spec, num_classes=max(classes, 2) + num_context - 1)
    return model


def _find(model: nn.Module) -> dict[str, Head]:
    layers = {n: m for n, m in model.named_modules() if isinstance(m, _KINDS)}
    if not layers:
        raise SegmendError(
            f"widen_head: {type(model).__name__} has no convolution and no linear layer"
        )
    last = list(layers)[-1]
    count = _out(layers[last])
    if count == 1:  # gates of attention have one channel, too
        return {last: layers[last]}
    return {name: layer for name, layer in layers.items() if _out(layer) == count}


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, Head]:
    layers = dict(model.named_modules())
    heads = {n: m for n in names if isinstance(m := layers.get(n), _KINDS)}
    missing = [name for name in names if name not in heads]
    if missing or not heads:
        raise SegmendError(
            f"widen_head: {missing or 'names'} is no convolution or linear layer of "
            f"{type(model).__name__}; see [n for n, _ in model.named_modules()]"
        )
    if len({_out(head) for head in heads.values()}) != 1:
        raise SegmendError(f"widen_head: {list(heads)} differ in their output channels")
    return heads


def _out(head: Head) -> int:
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def _widened(name: str, head: Head, num_context: int) -> Head:
    if not isinstance(head, nn.Linear) and head.groups != 1:
        raise SegmendError(f"widen_head: {name} has {head.groups} groups; want 1")
    transposed = isinstance(head, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    axis = 1 if transposed else 0
    single = _out(head) == 1
    with torch.no_grad():
        weight = _rows(head.weight.detach(), axis, num_context, single)
        bias = None
        if head.bias is not None or single:
            old = head.weight.new_zeros(_out(head)) if head.bias is None else head.bias.detach()
            bias = _rows(old, 0, num_context, single)
            background = torch.ones(len(bias), dtype=torch.bool, device=bias.device)
            background[1 : len(bias) - num_context + 1] = False
            bias = bias - math.log(num_context) * background
    wide = copy.deepcopy(head)
    if isinstance(wide, nn.Linear):
        wide.out_features = weight.shape[0]
    else:
        wide.out_channels = weight.shape[axis]
    wide.weight = nn.Parameter(weight, requires_grad=head.weight.requires_grad)
    if bias is not None:
        wide.bias = nn.Parameter(bias, requires_grad=head.weight.requires_grad)
    return wide


def _rows(values: Tensor, axis: int, num_context: int, single: bool) -> Tensor:
    """[background, foreground, copies of the background]; a single logit's background is 0."""
    if single:
        values = torch.cat((torch.zeros_like(values), values), dim=axis)
    background = values.narrow(axis, 0, 1)
    return torch.cat((values, *[background] * (num_context - 1)), dim=axis).contiguous()
