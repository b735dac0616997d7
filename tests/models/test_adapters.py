"""Real, tiny, untrained models of each library; the oracle is the library's own output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmend.errors import SegmendError
from segmend.models.adapters import adapt


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Fixed(nn.Module):
    """Returns what it was given, in the form that it was given."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> object:
        return self.output


@torch.no_grad()
def test_smp(images):
    import segmentation_models_pytorch as smp

    model = smp.Unet("tu-mobilenetv3_small_050", encoder_weights=None, classes=2).eval()
    assert torch.equal(adapt(model)(images), model(images))


@torch.no_grad()
def test_smp_with_a_classification_head(images):
    import segmentation_models_pytorch as smp

    model = smp.Unet(
        "tu-mobilenetv3_small_050", encoder_weights=None, classes=2, aux_params={"classes": 3}
    ).eval()
    assert torch.equal(adapt(model)(images), model(images)[0])


@torch.no_grad()
def test_torchvision(images):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    assert torch.equal(adapt(model)(images), model(images)["out"])


@torch.no_grad()
def test_hugging_face_logits_are_enlarged_as_its_own_postprocessing_does(images):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.modeling_outputs import SemanticSegmenterOutput

    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1] * 4,
        decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).eval()
    output = model(images)
    assert isinstance(output, SemanticSegmenterOutput)
    assert output.logits.shape == (2, 4, 16, 24)
    logits = adapt(model)(images)
    expected = F.interpolate(output.logits, size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(logits, expected)


@torch.no_grad()
def test_monai_basic_unet(images):
    from monai.networks.nets import BasicUNet

    model = BasicUNet(spatial_dims=2, in_channels=3, out_channels=2, features=(4,) * 6).eval()
    assert torch.equal(adapt(model)(images), model(images))


@torch.no_grad()
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_monai_dynunet(images, deep_supervision):
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    model = DynUNet(
        spatial_dims=2, in_channels=3, out_channels=2, kernel_size=[3, 3, 3, 3],
        strides=[1, 2, 2, 2], upsample_kernel_size=[2, 2, 2], filters=[4, 4, 8, 8],
        deep_supervision=deep_supervision, deep_supr_num=2,
    )  # fmt: skip
    evaluated = model.eval()(images)
    model.train()
    if deep_supervision:
        assert model(images).shape == (2, 3, 2, 64, 96)  # heads stand second
    torch.testing.assert_close(adapt(model)(images), evaluated)


@pytest.mark.parametrize("wrap", [
    lambda x: x, lambda x: {"out": x}, lambda x: {"logits": x}, lambda x: (x, None),
    lambda x: [x, x], lambda x: {"out": x, "aux": x * 0}, lambda x: ({"out": x},),
])  # fmt: skip
def test_every_form_gives_the_same_logits(images, wrap):
    logits = torch.randn(2, 1, 64, 96)
    assert torch.equal(adapt(Fixed(wrap(logits)))(images), logits)


def test_activations_are_undone(images):
    logits = torch.randn(2, 3, 64, 96)
    back = adapt(Fixed(logits.sigmoid()), activation="sigmoid")(images)
    torch.testing.assert_close(back, logits, rtol=1e-3, atol=1e-4)
    back = adapt(Fixed(logits.softmax(1)), activation="softmax")(images)
    torch.testing.assert_close(back.softmax(1), logits.softmax(1))
    saturated = adapt(Fixed((logits > 0).float()), activation="sigmoid")(images)
    assert saturated.isfinite().all()
    assert torch.equal(saturated > 0, logits > 0)


@pytest.mark.parametrize("value", [-0.1, 1.2, float("nan")])
def test_logits_called_probabilities_are_refused(images, value):
    with pytest.raises(SegmendError, match=r"wants probabilities in \[0, 1\], got values from"):
        adapt(Fixed(torch.full((2, 1, 64, 96), value)), activation="sigmoid")(images)


@pytest.mark.parametrize("output", [{"masks": 1}, None, (), torch.zeros(2, 3), {"out": None}])
def test_unknown_outputs_are_named(images, output):
    with pytest.raises(SegmendError, match=r"model output: want a tensor .* got "):
        adapt(Fixed(output))(images)


def test_unknown_activation():
    with pytest.raises(SegmendError, match=r"activation: want one of .* got 'tanh'"):
        adapt(nn.Identity(), activation="tanh")  # type: ignore[arg-type]
