"""A network as a function of its weights, and how its outputs move when the weights do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from segmend.errors import SegmendError, SegmendWarning, reason_of
from segmend.models.single_volume import quick_single_volumes

Weights = dict[str, Tensor]
Tangents = tuple[list[Tensor], list[Tensor]]
Result = TypeVar("Result")

_known: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, DistributedDataParallel, DataParallel or Fabric."""
    wrappers = ("DistributedDataParallel", "DataParallel", "_FabricModule", "OptimizedModule")
    while type(model).__name__ in wrappers:
        inside = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inside, nn.Module):
            break
        model = inside
    return model


def as_levels(output: Any, images: Tensor) -> list[Tensor]:
    """What a network returned, as logits (N, M, *size) a level, the finest first.

    Known: a tensor; a list or tuple of tensors; MONAI's stacked deep supervision (N, levels, M,
    *size); a mapping with "out" or "logits"; an object with `.logits`.
    """
    found = output
    if isinstance(found, Mapping):
        found = found.get("out", found.get("logits"))
    elif isinstance(getattr(found, "logits", None), Tensor):
        found = found.logits
    if isinstance(found, Tensor) and found.ndim == images.ndim + 1:
        found = list(found.unbind(1))
    levels = list(found) if isinstance(found, (list, tuple)) else [found]
    if not levels or not all(isinstance(z, Tensor) and z.ndim == images.ndim for z in levels):
        raise SegmendError(
            "model: want logits (N, M, *size), or a list of them (deep supervision), got "
            f"{type(output).__name__}"
        )
    if levels[0].shape[2:] != images.shape[2:]:
        raise SegmendError(
            f"model: want logits of the images' size {tuple(images.shape[2:])}, got "
            f"{tuple(levels[0].shape[2:])}; enlarge them inside the model"
        )
    return levels


class Functional:
    """A network's levels of logits as a function of its trainable weights.

    Nothing of the network is changed by a call: weights are passed in, and buffers (running
    statistics of batch norm) are clones, made in the call because forward mode wants it so. Every
    call sees the same random numbers, so that dropout drops the same.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.module = unwrap(model)
        trainable = {k: p for k, p in self.module.named_parameters() if p.requires_grad}
        if not trainable:
            raise SegmendError("model: has no trainable weights, so no step can be tried")
        self.weights: Weights = {name: p.detach() for name, p in trainable.items()}
        self._device = device
        self._random = _random_state(device)

    def __call__(self, weights: Weights, images: Tensor) -> list[Tensor]:
        _set_random_state(self._device, self._random)
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        with quick_single_volumes(images):
            found = functional_call(self.module, {**weights, **buffers}, (images,))
        return as_levels(found, images)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on as if nothing had been."""
    state = _random_state(device)
    try:
        yield
    finally:
        _set_random_state(device, state)


def tangents_forward(network: Functional, direction: Weights, images: Tensor) -> Tangents:
    """(levels, their derivatives along `direction`) by one forward-mode product.

    Weights that `direction` leaves out do not move. Nothing is kept for a reverse pass. Attention
    runs as plain matrix products: its fused kernels have no forward mode.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        make, unpack = _typed(forward_ad.make_dual), _typed(forward_ad.unpack_dual)
        dual = {name: make(network.weights[name], d) for name, d in direction.items()}
        levels = network({**network.weights, **dual}, images)
        pairs = [unpack(z) for z in levels]
        moved = [torch.zeros_like(z) if t is None else t.clone() for z, t in pairs]
        return [z.clone() for z, _ in pairs], moved


def tangents_double(network: Functional, direction: Weights, images: Tensor) -> Tangents:
    """The same by two reverse passes, for operators without forward mode; twice the time."""
    moving = {name: network.weights[name].clone().requires_grad_() for name in direction}
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        levels = network({**network.weights, **moving}, images)
        seeds = [torch.zeros_like(z, requires_grad=True) for z in levels]
        reached = [(z, s) for z, s in zip(levels, seeds, strict=True) if z.requires_grad]
        back = torch.autograd.grad(
            [z for z, _ in reached],
            list(moving.values()),
            grad_outputs=[s for _, s in reached],
            create_graph=True,
            allow_unused=True,
        )
        pairs = [(b, d) for b, d in zip(back, direction.values(), strict=True) if b is not None]
        _refuse_dead_ends([b for b, _ in pairs])
        moved = torch.autograd.grad(
            [b for b, _ in pairs], seeds, grad_outputs=[d for _, d in pairs], allow_unused=True
        )
    levels = [z.detach() for z in levels]
    zeros = (torch.zeros_like(z) for z in levels)
    return levels, [z if m is None else m for m, z in zip(moved, zeros, strict=True)]


def _refuse_dead_ends(tensors: Sequence[Tensor]) -> None:
    """RuntimeError where an operator can be gone back from only once.

    PyTorch puts a node that raises there, but prunes it when only some inputs are asked for: the
    product would be silently wrong.
    """
    waiting = [t.grad_fn for t in tensors]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("an operator that is only once differentiable")
        found = {before for before, _ in node.next_functions} - seen
        seen |= found
        waiting.extend(found)


def moved_levels(
    network: Functional, direction: Weights, images: Tensor, step: float | Tensor
) -> list[Tensor]:
    """Levels at weights + step * direction; the network's own weights are not touched."""
    weights = {
        k: w + step * direction[k] if k in direction else w for k, w in network.weights.items()
    }
    with torch.no_grad():
        return network(weights, images)


def climb_down(
    network: Functional, rungs: Sequence[tuple[str, Callable[[], Result]]]
) -> tuple[str, Result]:
    """The first rung that the network's operators allow, and what it gave.

    A warning says so if it is not the first. What was found is remembered for the network, so that
    it is tried, and said, only once.
    """
    start = _known.get(network.module)
    names = [name for name, _ in rungs]
    for index in range(names.index(start) if start in names else 0, len(rungs)):
        name, work = rungs[index]
        try:
            found = work()
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            if index + 1 == len(rungs):
                raise
            reason = reason_of(error, 200)
            warnings.warn(
                f"meta-gradient: {type(network.module).__name__} does not allow {name!r} "
                f"({reason}); going on with {names[index + 1]!r}",
                SegmendWarning,
                stacklevel=4,
            )
            continue
        _known[network.module] = name
        return name, found
    raise AssertionError("unreachable: the last rung returns or raises")


def _typed(function: Any) -> Callable[..., Any]:
    """Some of torch's functions have no annotations."""
    return cast(Callable[..., Any], function)


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    states: list[Tensor] = [torch.get_rng_state()]
    if device.type in ("cuda", "mps", "xpu"):
        states.append(getattr(torch, device.type).get_rng_state())
    return tuple(states)


def _set_random_state(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        getattr(torch, device.type).set_rng_state(states[1])
