"""The network of class tokens: its attention, its positions, its losses, and that it learns."""

import pytest
import torch
from torch.nn import functional as F

from segmend import SegmendError
from segmend.models.backbones import Transformer
from segmend.tags.inference import image_maps
from segmend.tags.loss import tag_loss
from segmend.tags.mctformer import distinct_tokens_loss, ranking_pool
from segmend.tags.mctformer_network import (
    MctformerClassifier,
    attention_weights,
    resampled_positions,
)
from segmend.tags.method_loss import Step, token_loss
from segmend.tags.network import ClassifierSpec, build_classifier
from segmend.tags.options import TagOptions


def tiny(method="mctformer", classes=3, **options):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=0, **options
    )
    return MctformerClassifier(Transformer(vit), ClassifierSpec(method, "tiny", classes, 8))


@pytest.mark.parametrize("size", [(32, 32), (17, 60), (1, 1)])
@pytest.mark.parametrize("method", ["mctformer", "mctformer+"])
def test_maps_of_any_size(size, method):
    model = tiny(method).eval()
    grid = tuple(-(-side // 8) for side in size)
    with torch.no_grad():
        assert model(torch.rand(2, 3, *size)).shape == (2, 3, *grid)
        found = model.read(torch.rand(2, 3, *size))
    assert found.maps.shape == (2, 3, *grid)
    assert found.maps.min() >= 0
    assert found.scores.shape == (2, 3)
    assert image_maps(model, torch.rand(3, *size)).cams.isfinite().all()


def test_attention_is_that_of_the_layer_itself():
    """Weights times values, through the layer's own output projection, is what the layer gives."""
    attention = tiny().backbone.model.blocks[0].attn.eval()
    x = torch.randn(2, 7, 16)
    one_head = torch.nn.MultiheadAttention(16, 1, batch_first=True)
    attention.num_heads, attention.scale = 1, 16**-0.5
    one_head.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.proj.weight,
            "out_proj.bias": attention.proj.bias,
        }
    )
    with torch.no_grad():
        wanted = one_head(x, x, x, need_weights=True)[1]
        torch.testing.assert_close(attention_weights(attention, x)[:, 0], wanted)


def test_scores_and_maps_are_those_of_the_transformer_with_one_token():
    """With one class, and the pretrained class token itself, nothing but the head is new."""
    model = tiny(classes=1).eval()
    vit = model.backbone.model
    model.class_tokens.data = vit.cls_token.data.clone()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        tokens = vit.forward_features(model.prepared(images))
        found = model.tokens(images)
    torch.testing.assert_close(found.scores, tokens[:, :1].mean(2))
    patches = tokens[:, 1:].mT.reshape(2, 16, 4, 4)
    torch.testing.assert_close(found.logits, model.patch_head(patches))


def test_rows_of_positions_stay_rows_on_a_grid_that_is_not_square():
    rows = torch.arange(4.0)[:, None, None].expand(4, 4, 1).reshape(1, 16, 1)
    found = resampled_positions(rows, (4, 4), (8, 2)).reshape(8, 2)
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert (found.diff(dim=0) > 0).all()
    columns = rows.reshape(4, 4).T.reshape(1, 16, 1)
    turned = resampled_positions(columns, (4, 4), (2, 8)).reshape(2, 8)
    torch.testing.assert_close(turned, found.T)


def test_as_many_cells_in_another_shape_are_resampled_too():
    positions = torch.rand(1, 16, 2)
    assert not torch.allclose(resampled_positions(positions, (2, 8), (4, 4)), positions)


@pytest.mark.parametrize(
    "options",
    [{"no_embed_class": True}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}],
)
def test_transformers_with_other_prefix_tokens(options):
    model = tiny(**options)
    assert model(torch.rand(1, 3, 40, 24)).shape == (1, 3, 5, 3)


def test_loss_of_tokens_and_patches_are_added():
    model = tiny().eval()
    images, tags = torch.rand(2, 3, 32, 48), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    inside = torch.ones(2, 32, 48, dtype=torch.bool)
    options = TagOptions(method="mctformer", fsl_weight=2)
    found = model.tokens(images)
    wanted = F.multilabel_soft_margin_loss(found.scores, tags)
    wanted = wanted + tag_loss(found.logits, tags, images, inside, options)
    torch.testing.assert_close(token_loss(model, Step(images, tags, inside, options)), wanted)


def test_plus_ranks_patches_and_keeps_tokens_apart():
    model = tiny("mctformer+").eval()
    images, tags = torch.rand(2, 3, 32, 48), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    inside = torch.ones(2, 32, 48, dtype=torch.bool)
    found = model.tokens(images)
    wanted = F.multilabel_soft_margin_loss(found.scores, tags)
    wanted = wanted + F.multilabel_soft_margin_loss(ranking_pool(found.logits), tags)
    for layer in found.class_tokens:
        for image in layer:
            alike = torch.cosine_similarity(image[:, None], image[None], dim=-1)
            wanted = wanted + F.cross_entropy(alike, torch.arange(3)) / 6
    torch.testing.assert_close(token_loss(model, Step(images, tags, inside, TagOptions())), wanted)


def test_tokens_that_point_apart_cost_less():
    apart, alike = torch.eye(4)[None, None], torch.ones(1, 1, 4, 4)
    assert distinct_tokens_loss(apart) < distinct_tokens_loss(alike)
    assert distinct_tokens_loss(alike[:, :, :1]) == 0


def test_ranking_pool_leaves_padding_out():
    logits, valid = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    valid[0, :2] = True
    found = ranking_pool(logits, decay=0.8, valid=valid)
    torch.testing.assert_close(found[0], ranking_pool(logits[:1, :, :2], decay=0.8)[0])
    assert torch.equal(found[1], torch.zeros(3))


@pytest.mark.parametrize("method", ["mctformer", "mctformer+"])
def test_every_part_learns(method):
    model = tiny(method)
    images, tags = torch.rand(2, 3, 32, 32), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    inside = torch.ones(2, 32, 32, dtype=torch.bool)
    token_loss(model, Step(images, tags, inside, TagOptions())).backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {"backbone.model.cls_token"}  # the class tokens have taken its place


@pytest.mark.parametrize("backbone", ["resnet10t", "squeezenet1_0"])
def test_only_transformers_have_tokens(backbone):
    with pytest.raises(SegmendError, match="wants a vision transformer"):
        build_classifier(backbone, num_classes=2, method="mctformer", weights="none")


def test_any_transformer_of_timm_by_its_name():
    model = build_classifier("test_vit", num_classes=2, method="mctformer", weights="none")
    assert model.output_stride == 16
    assert model(torch.rand(1, 3, 40, 70)).shape == (1, 2, 3, 5)
