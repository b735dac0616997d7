"""Tag classifiers: any backbone, maps of the stride asked for, scores that are means of maps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.tags.network import build_classifier, pool_scores


@pytest.mark.parametrize(
    ("backbone", "stride", "found"),
    [
        ("squeezenet1_0", 8, 8),
        ("squeezenet1_0", 16, 16),
        ("resnet10t", 8, 8),
        ("vgg11", 16, 16),
        ("convnext_atto", 16, 16),
        ("deit_tiny_patch16_224", 8, 16),  # a transformer keeps the size of its patches
    ],
)
def test_maps_have_the_stride_for_any_image_size(backbone, stride, found):
    weights = "bundled" if backbone.startswith("squeeze") else "none"
    model = build_classifier(backbone, num_classes=3, output_stride=stride, weights=weights).eval()
    assert model.output_stride == found
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 50, 67))
    assert maps.shape == (1, 3, -(-50 // found), -(-67 // found))


def test_score_by_average_pooling_is_the_head_on_the_pooled_features():
    """The identity behind class activation maps (Zhou et al., CVPR 2016)."""
    torch.manual_seed(0)
    model = build_classifier(num_classes=4).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = model.backbone(model.prepared(images))[-1].mean((2, 3), keepdim=True)
        torch.testing.assert_close(
            pool_scores(model(images)), model.head(features)[..., 0, 0], atol=1e-5, rtol=1e-5
        )


def test_bundled_weights_are_imagenet_s_not_random():
    """Two builds agree, and differ from a random one."""
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        one, two = (build_classifier(num_classes=1).eval().backbone(images)[-1] for _ in range(2))
        random = build_classifier(num_classes=1, weights="none").eval().backbone(images)[-1]
    assert torch.equal(one, two)
    assert not torch.allclose(one, random)


@given(seed=st.integers(0, 99), pooling=st.sampled_from(["mean", "max"]))
def test_padding_is_in_no_score(seed, pooling):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, 4, 5, generator=generator)
    valid = torch.rand(3, 4, 5, generator=generator) < 0.5
    valid[2] = False
    scores = pool_scores(
        logits.masked_fill(~valid.unsqueeze(1), torch.nan), pooling=pooling, valid=valid
    )
    for n in (0, 1):
        inside = logits[n][:, valid[n]]
        if inside.shape[1]:
            wanted = inside.mean(1) if pooling == "mean" else inside.amax(1)
            torch.testing.assert_close(scores[n], wanted)
    assert torch.equal(scores[2], torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backbone": "resnet51"}, "timm has no 'resnet51'"),
        ({"backbone": "resnet18"}, "only squeezenet1_0 comes with bundled weights"),
        ({"output_stride": 4}, "output_stride: want one of"),
        ({"num_classes": 0}, "want at least 1 class"),
    ],
)
def test_what_cannot_be_built_is_said(options, text):
    if options.get("backbone") == "resnet51":
        options["weights"] = "none"
    with pytest.raises(SegmendError, match=text):
        build_classifier(**{"num_classes": 2, **options})
