"""Networks of one small volume give on a CPU what they gave, by PyTorch's quick convolutions."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from segmend.models.single_volume import quick_single_volumes

CASES = {
    "rows of zeros": (nn.Conv3d(16, 8, 3, padding=1), (16, 32, 32, 9)),
    "taken twice": (nn.Conv3d(8, 4, 3, padding=1), (8, 12, 10, 7)),
    "no padding": (nn.Conv3d(16, 8, 3), (16, 32, 32, 9)),
    "same size by name": (nn.Conv3d(16, 8, (3, 5, 1), padding="same"), (16, 32, 30, 5)),
    "mirrored border": (nn.Conv3d(16, 8, 3, padding=1, padding_mode="reflect"), (16, 32, 32, 9)),
    "stride": (nn.Conv3d(16, 8, 3, stride=(1, 2, 1), padding=1), (16, 32, 33, 9)),
    "long stride": (nn.Conv3d(16, 8, 5, stride=3, padding=1), (16, 32, 31, 9)),
    "dilated": (nn.Conv3d(16, 8, 3, dilation=2, padding=2), (16, 32, 32, 9)),
    "groups": (nn.Conv3d(16, 16, 3, padding=1, groups=4), (16, 32, 32, 9)),
    "large enough": (nn.Conv3d(24, 4, 3, padding=1), (24, 32, 32, 5)),
    "network": (nn.Sequential(nn.Conv3d(16, 8, 3, bias=False), nn.InstanceNorm3d(8),
                              nn.LeakyReLU(), nn.ConvTranspose3d(8, 3, 2, 2)), (16, 32, 32, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_values_and_both_kinds_of_derivatives_stay(name):
    network, size = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(1, *size)

    def found():
        leaf = x.clone().requires_grad_()
        y = network(leaf)
        back = torch.autograd.grad(y.square().sum(), [leaf, *network.parameters()])
        with torch.no_grad(), forward_ad.dual_level():
            moved = forward_ad.unpack_dual(network(forward_ad.make_dual(x, x.cos()))).tangent
        return [y.detach(), moved.clone(), *back]

    wanted = found()
    with quick_single_volumes(x):
        quick = found()
    for a, b in zip(quick, wanted, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("name", list(CASES))
def test_no_convolution_of_a_cpu_takes_the_slow_path(name):
    """The reason for it all: were PyTorch's rule another one day, this says so."""
    network, size = CASES[name]
    events = torch.profiler.ProfilerActivity.CPU
    x = torch.zeros(1, *size)
    with quick_single_volumes(x), torch.profiler.profile(activities=[events]) as seen:
        network(x)
    slow = {"aten::slow_conv3d_forward", "aten::slow_conv_dilated3d"}
    assert slow.isdisjoint(e.key for e in seen.key_averages())


@pytest.mark.parametrize("shape", [(2, 8, 12, 10, 7), (1, 8, 12, 10)])
def test_other_images_are_left_alone(shape):
    x = torch.randn(*shape)
    network = nn.Conv3d(8, 4, 3) if len(shape) == 5 else nn.Conv2d(8, 4, 3)
    wanted = network(x)
    with quick_single_volumes(x):
        assert torch.equal(network(x), wanted)
