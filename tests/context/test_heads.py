"""Widened heads: the same probabilities of the foreground, on the networks of several libraries."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from segmend.context.functional import as_levels
from segmend.context.heads import widen_head
from segmend.context.merging import merge_background
from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet
from segmend.models.segmenters import build_segmenter


def check(model: nn.Module, images: torch.Tensor, classes: int, contexts: int = 3) -> None:
    model.eval()
    with torch.no_grad():
        before = as_levels(model(images), images)[0]
        wide = widen_head(model, contexts)
        assert wide is model
        logits = as_levels(wide(images), images)[0]
    assert logits.shape[1] == max(classes, 2) + contexts - 1
    merged = merge_background(
        logits, num_context=contexts, num_classes=max(classes, 2), merge="sum"
    ).softmax(1)
    expected = (
        before.softmax(1) if classes > 1 else torch.cat((1 - before.sigmoid(), before.sigmoid()), 1)
    )
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_plain_unet(classes: int, dimensions: int) -> None:
    model = PlainUNet(1, classes, widths=(3, 5), dimensions=dimensions)  # type: ignore[arg-type]
    check(model, torch.randn(2, 1, *[6] * dimensions), classes)


def test_every_level_of_deep_supervision() -> None:
    model = PlainUNet(1, 2, widths=(3, 4, 5, 6), deep_supervision=True)
    widen_head(model, 4)
    assert [z.shape[1] for z in model(torch.randn(1, 1, 24, 24))] == [5, 5, 5]


@pytest.mark.parametrize("classes", [1, 3])
def test_our_segmenter_tells_its_new_channels(classes: int) -> None:
    model = build_segmenter("fpn", num_classes=classes, weights="none")
    check(model, torch.rand(1, 3, 33, 40), classes)
    assert model.spec is not None
    assert model.spec.num_classes == max(classes, 2) + 2


def test_smp() -> None:
    model = smp.Unet("resnet18", encoder_weights=None, classes=2, decoder_channels=(8, 8, 8, 8, 4))
    check(model, torch.rand(1, 3, 32, 32), 2)


def test_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 3, 3, padding=1))
    check(model, torch.randn(1, 1, 6, 6), 3)


def test_a_head_without_bias_copies_the_background() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(2, 3, 1, bias=False))
    before = copy.deepcopy(model[1].weight.detach())
    widen_head(model, 2)
    assert torch.equal(model[1].weight[:3].detach(), before)
    assert torch.equal(model[1].weight[3].detach(), before[0])
    assert model[1].bias is None


def test_named_layers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    widen_head(model, 2, names=["1"])
    assert model(torch.randn(1, 1, 3, 3)).shape[1] == 3
    with pytest.raises(SegmendError, match="nowhere"):
        widen_head(model, 2, names=["nowhere"])


def test_models_that_cannot_be_widened() -> None:
    with pytest.raises(SegmendError, match="no convolution"):
        widen_head(nn.Sequential(nn.Identity()), 2)
    with pytest.raises(SegmendError, match="groups"):
        widen_head(nn.Sequential(nn.Conv2d(2, 2, 1, groups=2)), 2)
    with pytest.raises(SegmendError, match="wrap it"):
        widen_head(nn.Conv2d(1, 2, 1), 2)
