"""The bias field: an identity at the start, for any size, that gradient descent can move."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.refine import BiasField


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 3),
    stride=st.sampled_from([1, 2, 4, 8]),
    shared=st.booleans(),
)
def test_untrained_field_is_exactly_the_base(height, width, channels, stride, shared):
    logits = torch.randn(2, channels, height, width) * 5
    net = BiasField(channels, width=8, stride=stride, shared=shared).eval()
    assert torch.equal(net(logits), logits)


def test_field_is_constant_between_its_few_degrees_of_freedom():
    """At stride 8 the second difference of the field vanishes inside each interpolation cell."""
    torch.manual_seed(0)
    net = BiasField(1, width=8, stride=8)
    torch.nn.init.normal_(net.head.weight)
    field = net.field(torch.randn(1, 1, 64, 64))[0, 0]
    cell = field[20:28, 20:28]  # between the centres of two neighbouring cells, 3.5 + 8k
    assert field.std() > 0.01
    torch.testing.assert_close(cell.diff(n=2, dim=0), torch.zeros(6, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(cell.diff(n=2, dim=1), torch.zeros(8, 6), atol=1e-5, rtol=0)


def test_shared_network_treats_every_channel_alike():
    torch.manual_seed(0)
    net = BiasField(3, width=8, shared=True)
    torch.nn.init.normal_(net.head.weight)
    logits = torch.randn(2, 3, 32, 32)
    order = [2, 0, 1]
    torch.testing.assert_close(net(logits[:, order]), net(logits)[:, order])


def test_field_at_stride_1_can_follow_single_pixels_of_the_image():
    """At stride 2 two neighbouring pixels share field values; at stride 1 nothing ties them."""
    torch.manual_seed(0)
    logits, images = torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32)
    images[..., ::2, :] = 1
    rough = []
    for stride in (1, 2):
        net = BiasField(1, image_channels=3, width=8, stride=stride)
        torch.nn.init.normal_(net.head.weight)
        field = net.field(logits, images)[0, 0, 8:-8, 8:-8]
        rough.append(float(field.diff(n=2, dim=0).abs().mean().detach()))
    assert rough[0] > 10 * rough[1]


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_reaches_every_weight_once_the_head_has_moved(stride):
    torch.manual_seed(0)
    net = BiasField(1, width=8, stride=stride)
    torch.nn.init.normal_(net.head.weight)
    net(torch.randn(1, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("logits", "images", "what"),
    [
        (torch.zeros(1, 2, 8, 8), None, r"logits: want \(N, 1, H, W\), got \(1, 2, 8, 8\)"),
        (torch.zeros(8, 8), None, r"logits: want"),
        (torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8), "logits alone, got images"),
    ],
)
def test_wrong_input_is_named(logits, images, what):
    with pytest.raises(SegmendError, match=what):
        BiasField(1)(logits, images)


def test_wrong_stride_is_named():
    with pytest.raises(SegmendError, match="stride: want 1, 2, 4 or 8, got 3"):
        BiasField(1, stride=3)
