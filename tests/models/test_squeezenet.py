"""Oracle: torchvision's own squeezenet1_0, fed with an input that was padded by hand."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.models import squeezenet1_0

import segmend.models.squeezenet as module
from segmend.errors import SegmendError
from segmend.models.squeezenet import SqueezeNetEncoder, bundled_features


@pytest.fixture(scope="module")
def torchvision_features() -> torch.nn.Module:
    model = squeezenet1_0(weights=None)
    folder = module.__file__.rpartition("/")[0]
    model.load_state_dict(
        {k: v.float() for k, v in load_file(f"{folder}/weights/{module.WEIGHTS}").items()}
    )
    return model.features.eval()


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_deepest_level_is_torchvisions(torchvision_features, size):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = SqueezeNetEncoder().eval()(images)[-1]
        theirs = torchvision_features(F.pad(images, (3, 3, 3, 3)))
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_level_i_has_stride_2_to_the_i(depth):
    encoder = SqueezeNetEncoder(depth=depth, bundled_weights=False).eval()
    images = torch.zeros(1, 3, 64, 96)
    with torch.no_grad():
        levels = encoder(images)
    assert [tuple(level.shape) for level in levels] == [
        (1, channels, 64 // 2**i, 96 // 2**i) for i, channels in enumerate(encoder.out_channels)
    ]
    assert encoder.output_stride == 2**depth


def test_bundled_weights_are_float32_and_used_only_when_asked_for():
    weights = bundled_features()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    blank = SqueezeNetEncoder(bundled_weights=False).features.state_dict()
    assert blank.keys() == weights.keys()
    assert not torch.equal(blank["0.weight"], weights["0.weight"])


@pytest.mark.parametrize("depth", [0, 6])
def test_depth_out_of_range(depth):
    with pytest.raises(SegmendError, match=f"depth: want 1 to 5 .* got {depth}"):
        SqueezeNetEncoder(depth=depth)
