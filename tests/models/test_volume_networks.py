"""Networks for volumes: logits of the input's size, whatever it is; nnU-Net's rule by hand."""

from __future__ import annotations

import sys

import pytest
import torch

from segmend.errors import SegmendError
from segmend.models.volumes import NETWORKS, build_volume_network, dynunet_plan


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(16, 16, 16), (17, 20, 16)])
def test_logits_have_the_size_of_the_volume(name, size):
    model = build_volume_network(
        name, in_channels=2, out_channels=3, widths=(8, 8, 8), patch=(16, 16, 16)
    ).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


def test_two_sides_make_a_network_for_images():
    model = build_volume_network("dynunet", widths=(4, 8, 8), patch=(32, 24))
    assert model(torch.zeros(2, 1, 30, 21)).shape == (2, 2, 30, 21)


def test_deep_supervision_gives_levels_while_training():
    model = build_volume_network(widths=(4, 6, 8), patch=(16,) * 3, deep_supervision=True)
    sizes = [z.shape[2:] for z in model(torch.zeros(1, 1, 16, 16, 16))]
    assert sizes == [(16,) * 3, (8,) * 3]


def test_plan_halves_the_finest_axes_first():
    # 40 x 56 at 1 mm, 12 slices at 4 mm: in plane twice, then all three, while 8 voxels are left.
    kernels, strides = dynunet_plan((40, 56, 12), (1.0, 1.0, 4.0), stages=6)
    assert kernels == [[3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    assert strides == [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]]
    assert dynunet_plan((32, 32), stages=2)[1] == [[1, 1], [2, 2]]


def test_errors(monkeypatch):
    with pytest.raises(SegmendError, match="did you mean 'dynunet'"):
        build_volume_network("dynunett")
    with pytest.raises(SegmendError, match="patch"):
        build_volume_network(patch=(4, 16, 16))
    with pytest.raises(SegmendError, match="deep_supervision"):
        build_volume_network("dynunet", deep_supervision=True)
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(SegmendError, match=r"pip install 'segmend\[medical\]'"):
        build_volume_network("dynunet")
