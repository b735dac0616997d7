"""SqueezeNet 1.0 as a multi-scale encoder, with ImageNet weights that ship with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError

WEIGHTS = "squeezenet1_0_imagenet.safetensors"
# Where the network changes its stride, as slices of torchvision's `features`: strides 2, 4, 8, 16.
STAGES = ((0, 2), (2, 6), (6, 11), (11, 13))
CHANNELS = (96, 256, 512, 512)


class SqueezeNetEncoder(nn.Module):
    """Features of SqueezeNet 1.0 at strides 2, 4, 8, 16 (and 32: the last, max-pooled).

    Input: (N, 3, H, W), ImageNet-normalised, H and W multiples of 2**depth.
    Output: a list of depth + 1 tensors, the input first, as segmentation_models_pytorch expects.
    The first convolution is padded by 3 pixels (torchvision: none), so that a stage of stride s
    is exactly H / s by W / s; parameter names are torchvision's.
    `depth` 5 adds a max-pooled level without weights, for decoders that want five levels.
    Reference: Iandola et al., arXiv:1602.07360; weights of torchvision's `squeezenet1_0`.
    """

    def __init__(self, *, depth: int = 4, bundled_weights: bool = True) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_0

        if not 1 <= depth <= 5:
            raise SegmendError(f"depth: want 1 to 5 for squeezenet1_0, got {depth}")
        self.depth = depth
        self.features = squeezenet1_0(weights=None).features
        self.features[0].padding = (3, 3)
        if bundled_weights:
            self.features.load_state_dict(bundled_features())

    @property
    def out_channels(self) -> list[int]:
        """Channels of each returned level, the input first."""
        return [3, *CHANNELS, CHANNELS[-1]][: self.depth + 1]

    @property
    def output_stride(self) -> int:
        """Stride of the deepest returned level."""
        return int(2**self.depth)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x]
        for start, stop in STAGES[: self.depth]:
            x = self.features[start:stop](x)
            levels.append(x)
        if self.depth == 5:
            levels.append(F.max_pool2d(x, 2))
        return levels


def bundled_features() -> dict[str, Tensor]:
    """The shipped ImageNet weights of the feature layers, float32, named as in `features`."""
    from safetensors.torch import load_file

    with as_file(files("segmend.models") / "weights" / WEIGHTS) as path:
        state = load_file(path)
    prefix = "features."
    return {
        name.removeprefix(prefix): tensor.to(torch.float32)
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
