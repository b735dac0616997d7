"""Maps of whole images: what scales and mirror images add up to."""

import pytest
import torch
from torch.nn import functional as F

from segmend.tags.inference import image_maps
from segmend.tags.network import build_classifier


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_classifier(num_classes=3).eval()


def test_one_scale_is_the_network_s_own_map(model):
    image = torch.rand(3, 64, 80)
    found = image_maps(model, image, scales=[1.0], flip=False)
    with torch.no_grad():
        logits = model(image[None])
    wanted = F.interpolate(torch.relu(logits), size=(16, 20), mode="bilinear")[0]
    torch.testing.assert_close(found.cams, wanted)
    torch.testing.assert_close(found.scores, logits.mean((0, 2, 3)))


def test_maps_of_a_mirrored_image_are_mirrored(model):
    image = torch.rand(3, 64, 96)
    one, two = (image_maps(model, x, scales=[0.5, 1.0]) for x in (image, image.flip(-1)))
    torch.testing.assert_close(one.cams, two.cams.flip(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.scores, two.scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 47)])
def test_any_size_gives_maps_of_a_quarter(model, size):
    found = image_maps(model, torch.rand(3, *size))
    assert found.cams.shape == (3, -(-size[0] // 4), -(-size[1] // 4))
    assert found.cams.isfinite().all()
    assert found.cams.min() >= 0
