"""One network on base logits of any size: resized, run and merged as its options say."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from segmend.refine.bias_field import BiasField
from segmend.refine.merge import merge
from segmend.refine.network import GRIDS, PatchRefineNet, RefinedLogits, Variant
from segmend.refine.options import RefineOptions


def build_network(options: RefineOptions, *, channels: int, with_images: bool) -> nn.Module:
    """The untrained network that `options` name."""
    if options.method == "bias-field":
        return BiasField(
            channels,
            image_channels=3 if with_images else 0,
            width=options.width,
            stride=options.stride,
            shared=options.shared,
        )
    return PatchRefineNet(
        variant_of(options),
        width=options.width,
        batch_statistics=options.own_statistics,
    )


def variant_of(options: RefineOptions) -> Variant:
    """P0, P4 or P64, of a method that is PatchRefineNet."""
    names = {f"patch-refine-{variant.lower()}": variant for variant in GRIDS}
    return names[options.method]


def run_network(
    network: nn.Module, logits: Tensor, images: Tensor | None = None
) -> Tensor | RefinedLogits:
    """What the network makes of base logits (N, C, H, W).

    PatchRefineNet reads probabilities of one class: several channels pass as so many images.
    """
    if isinstance(network, PatchRefineNet):
        probs = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
        refined: RefinedLogits = network(probs.flatten(0, 1).unsqueeze(1))
        local = None if refined.local is None else refined.local.view_as(logits)
        return RefinedLogits(refined.global_.view_as(logits), local)
    corrected: Tensor = network(logits, images)
    return corrected


def apply_network(
    network: nn.Module, logits: Tensor, images: Tensor | None, options: RefineOptions
) -> Tensor:
    """One network's refined logits (N, C, H, W), resized and merged as `options` say."""
    size = logits.shape[-2:]
    if options.resize is not None:
        logits = resized(logits, (options.resize, options.resize))
        images = None if images is None else resized(images, (options.resize, options.resize))
    output = run_network(network, logits, images)
    if isinstance(output, RefinedLogits):
        output = merge(output, rule="global" if output.local is None else options.merge)
        if output.shape[1] > 1:
            output = F.logsigmoid(output)  # one class against the rest, on log p's scale
    return resized(output, size) if options.resize is not None else output


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
