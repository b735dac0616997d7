"""One battery for every kind of segmenter: any size in, logits of that size out, gradients back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segmend.errors import SegmendError
from segmend.models.segmenters import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Segmenter,
    SegmenterSpec,
    build_segmenter,
)

KINDS = [
    ("fpn", "squeezenet1_0", "bundled"),
    ("unet", "squeezenet1_0", "bundled"),
    ("linknet", "squeezenet1_0", "none"),
    ("fpn", "tu-mobilenetv3_small_050", "none"),
    ("unet", "mobileone_s0", "none"),
    ("lraspp_mobilenet_v3_large", "squeezenet1_0", "none"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def segmenter(request) -> Segmenter:
    architecture, encoder, weights = request.param
    torch.manual_seed(0)
    return build_segmenter(architecture, encoder=encoder, weights=weights, num_classes=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (33, 70)])
def test_logits_have_the_input_size(segmenter, size):
    segmenter.eval()
    with torch.no_grad():
        logits = segmenter(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_gradients_reach_encoder_and_head(segmenter):
    segmenter.train()
    segmenter(torch.rand(2, 3, 64, 64)).square().mean().backward()
    first = next(segmenter.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    segmenter.zero_grad()


def test_spec_rebuilds_the_same_layers(segmenter):
    spec = segmenter.spec
    encoder = "squeezenet1_0" if spec.encoder == "built-in" else spec.encoder
    again = build_segmenter(
        spec.architecture, encoder=encoder, num_classes=spec.num_classes, weights="none"
    )
    again.load_state_dict(segmenter.state_dict())
    assert again.spec == spec


class Recorder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


@given(st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=20)
def test_pads_by_edge_pixels_normalises_and_cuts_back(height, width):
    images = torch.rand(1, 3, height, width)
    segmenter = Segmenter(Recorder())
    out = segmenter(images)
    seen = segmenter.network.seen
    assert seen.shape[2] % 32 == seen.shape[3] % 32 == 0
    assert 0 <= seen.shape[2] - height < 32
    assert 0 <= seen.shape[3] - width < 32
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(out[0] * std + mean, images[0])
    assert torch.equal(seen[..., -1, -1], out[..., -1, -1])


def test_spec_names_what_was_built():
    built = build_segmenter("FPN", num_classes=3)
    assert built.spec == SegmenterSpec("fpn", "squeezenet1_0", 3)


@pytest.mark.parametrize(
    ("images", "found"),
    [(torch.zeros(3, 8, 8), r"\(3, 8, 8\)"), (torch.zeros(1, 1, 8, 8), r"\(1, 1, 8, 8\)"),
     (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8")],
)  # fmt: skip
def test_wrong_images(images, found):
    with pytest.raises(SegmendError, match=rf"images: want float \(N, 3, H, W\).*{found}"):
        Segmenter(Recorder())(images)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"architecture": "unett"}, "architecture: unknown name 'unett'; did you mean unet"),
        ({"encoder": "resnet19"}, "encoder: unknown name 'resnet19'; did you mean .*tu-NAME"),
        ({"encoder": "tu-nonsense", "weights": "none"}, "tu-nonsense.*cannot build it"),
        ({"encoder": "resnet18"}, 'only squeezenet1_0 comes with .* weights="none"'),
        ({"weights": "hub"}, 'weights="bundled"'),
        ({"weights": "imagenet"}, "weights: want one of .* got 'imagenet'"),
        ({"num_classes": 0}, "num_classes: want at least 1 .* got 0"),
        ({"architecture": "deeplabv3plus"}, "has no dilated form"),
    ],
)
def test_error_says_what_to_do(options, text):
    if options.get("encoder") == "resnet19":
        options = {**options, "weights": "none"}
    with pytest.raises(SegmendError, match=text):
        build_segmenter(options.pop("architecture", "fpn"), **options)


def test_smps_own_table_of_encoders_is_left_as_it_was():
    from segmentation_models_pytorch import encoders

    before = set(encoders.encoders)
    build_segmenter("linknet")
    assert set(encoders.encoders) == before
