"""Maps from gradients: what theory says they are for a linear head, and by hand."""

import sys

import pytest
import torch

from segmend import SegmendError
from segmend.tags.gradient_maps import CLASSES, gradient_maps
from segmend.tags.inference import image_maps
from segmend.tags.network import build_classifier


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_classifier(num_classes=3, output_stride=16).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))


def test_grad_cam_of_average_pooling_is_the_activation_map(model, images):
    """Selvaraju et al., ICCV 2017, section 3.1: equal up to the number of cells."""
    found, plain = gradient_maps(model, images, "grad-cam"), model.read(images)
    cells = plain.maps.shape[2] * plain.maps.shape[3]
    torch.testing.assert_close(found.maps * cells, plain.maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.scores, plain.scores)


def test_layer_cam_takes_what_speaks_for_a_class(model, images):
    with torch.no_grad():
        features = model.backbone(model.prepared(images))[-1]
        weights = model.head.weight[:, :, 0, 0].clamp(min=0)
        wanted = torch.einsum("cd,ndhw->nchw", weights, features).clamp(min=0)
    found = gradient_maps(model, images, "layer-cam").maps
    torch.testing.assert_close(found * wanted[0, 0].numel(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_every_kind_gives_maps_of_the_tags_alone(model, images, kind):
    found = gradient_maps(model, images, kind, torch.tensor([[1.0, 0, 0], [1, 0, 1]]))
    assert found.maps.shape == model(images).shape
    assert found.maps.isfinite().all()
    assert found.maps.min() >= 0
    assert found.maps[:, 0].any()
    assert not found.maps[:, 1].any()


def test_whole_images_over_scales(model, images):
    options = {"scales": [1.0, 0.5], "tags": torch.tensor([1.0, 0, 1])}
    one = image_maps(model, images[0], **options, maps="grad-cam++")
    plain = image_maps(model, images[0], **options)
    assert one.cams.shape == plain.cams.shape
    torch.testing.assert_close(one.scores, plain.scores)


def test_nothing_is_left_behind_in_the_network(model, images):
    gradient_maps(model, images, "grad-cam")
    assert all(p.grad is None for p in model.parameters())


def test_what_it_cannot_do_is_said(model, images, monkeypatch):
    with pytest.raises(SegmendError, match="maps: want one of"):
        gradient_maps(model, images, "cam")
    other = build_classifier("test_vit", num_classes=2, method="mctformer", weights="none")
    with pytest.raises(SegmendError, match=r"not mctformer; say maps=cam"):
        gradient_maps(other, images, "grad-cam")
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(SegmendError, match="pip install 'segmend"):
        gradient_maps(model, images, "grad-cam")
