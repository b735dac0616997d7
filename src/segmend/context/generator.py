"""The network that learns context labels, and what its training needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet
from segmend.models.single_volume import quick_single_volumes

GENERATOR_LR = 3e-4
"""Published: Adam with its usual betas, no weight decay."""


class ContextGenerator(nn.Module):
    """A light U-Net that gives context logits: half of `PlainUNet`'s widths, coarser images.

    Args:
        in_channels: of the image.
        num_context: K, channels of the logits.
        widths: of its stages. Published: those of the segmenter; then its forward pass, which
            every training step needs, costs a third of the step.
        stride: images are averaged over cells of this side before, logits enlarged after. 1:
            published. 2 (default) costs a quarter in 2D and an eighth in 3D; context labels need
            no sharp outlines, since the foreground's comes from the mask.
        dimensions: 2 or 3.
    Shapes:
        float (N, in_channels, *size) to (N, K, *size), any size.
    """

    def __init__(
        self,
        in_channels: int,
        num_context: int,
        *,
        widths: Sequence[int] = (8, 16, 32, 48),
        stride: int = 2,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        if num_context < 1 or stride < 1:
            raise SegmendError(
                f"generator: want num_context and stride >= 1, got {num_context} and {stride}"
            )
        self.num_context, self.stride = num_context, stride
        self.network = PlainUNet(in_channels, num_context, widths=widths, dimensions=dimensions)

    def forward(self, images: Tensor) -> Tensor:
        if self.stride == 1:
            logits: Tensor = self.network(images)
            return logits
        size = images.shape[2:]
        small = F.interpolate(images, size=[-(-n // self.stride) for n in size], mode="area")
        mode = "bilinear" if len(size) == 2 else "trilinear"
        return F.interpolate(self.network(small), size=size, mode=mode, align_corners=False)


class GeneratorTrainer:
    """A generator with its optimiser, and a running average of its weights.

    Args:
        averaging: decay of the average, which gives the labels; 0 (default, published): none.
    """

    def __init__(
        self, generator: nn.Module, *, lr: float = GENERATOR_LR, averaging: float = 0.0
    ) -> None:
        if not 0 <= averaging < 1:
            raise SegmendError(f"averaging: want a decay in [0, 1), got {averaging}")
        if not lr > 0:
            raise SegmendError(f"generator_lr: want a number > 0, got {lr}")
        self.generator = generator
        self.averaging = averaging
        self.average = copy.deepcopy(generator).requires_grad_(False) if averaging else None
        self.parameters = [p for p in generator.parameters() if p.requires_grad]
        self.lr = lr
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)
        self.updates = 0

    @torch.no_grad()
    def contexts(self, images: Tensor) -> Tensor:
        """Probabilities (N, K, *size) of the generator, or of its average; no gradient."""
        labeller = self.generator if self.average is None else self.average
        with quick_single_volumes(images):
            logits: Tensor = labeller(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)

    def to(self, device: torch.device) -> None:
        """Follow the images."""
        for network in (self.generator, self.average):
            if network is not None and next(network.parameters()).device != device:
                network.to(device)

    def apply(self, gradients: Sequence[Tensor], *, factor: float = 1.0) -> bool:
        """One Adam step, at `factor` of the learning rate, on gradients meant over processes.

        Nothing moves, and False comes back, where all gradients are 0 or one is not finite: Adam
        would otherwise go on by its momentum.
        """
        found = self._shared(gradients)
        total = torch.stack([g.detach().float().abs().sum() for g in found]).sum()
        if not bool(total.isfinite() & (total > 0)):
            return False
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient.to(parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self._follow()
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs."""
        return {
            "generator": self.generator.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.generator.load_state_dict(state["generator"])
        if self.average is not None:
            self.average.load_state_dict(state["average"] or state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])

    def _follow(self) -> None:
        if self.average is None:
            return
        with torch.no_grad():
            pairs = zip(
                self.average.state_dict().values(),
                self.generator.state_dict().values(),
                strict=True,
            )
            for mean, now in pairs:
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - self.averaging)
                else:
                    mean.copy_(now)

    def _shared(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients averaged over processes; the first process's weights before the first step."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return list(gradients)
        if self.updates == 0:
            for parameter in self.parameters:
                distributed.broadcast(parameter.data, src=0)
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        parts = torch.split(flat / distributed.get_world_size(), sizes)
        return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
