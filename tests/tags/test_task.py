"""The loss of a tag classifier is the sum that its settings say; crops mark what is padding."""

import pytest
import torch
from torch.nn import functional as F

from segmend.tags.activation import similarity_inputs
from segmend.tags.importance import importance_sampling_loss
from segmend.tags.options import TagOptions
from segmend.tags.similarity import feature_similarity_loss
from segmend.tags.task import TagCrops, TaggedItems, rescaled, tag_loss


class Photographs:
    def __init__(self, count=4, size=(20, 30)):
        self.images = [torch.rand(3, *size) for _ in range(count)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"name": str(index), "image": self.images[index], "tags": torch.eye(4)[index % 4]}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, generator=generator)
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    images = torch.rand(2, 3, 48, 48, generator=generator)
    inside = torch.ones(2, 48, 48, dtype=torch.bool)
    inside[:, 24:] = False
    return logits, tags, images, inside


def test_plain_loss_is_cross_entropy_of_the_mean_inside_the_image(batch):
    logits, tags, images, inside = batch
    wanted = F.binary_cross_entropy_with_logits(logits[:, :, :3].mean((2, 3)), tags)
    torch.testing.assert_close(tag_loss(logits, tags, images, inside, TagOptions()), wanted)


def test_loss_is_the_weighted_sum_of_its_three_parts(batch):
    logits, tags, images, inside = batch
    options = TagOptions(isl_weight=0.2, fsl_weight=5, sampling="exact", sigma=24)
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    valid[:, 3:] = False
    pooled = F.binary_cross_entropy_with_logits(logits[:, :, :3].mean((2, 3)), tags)
    sampled = importance_sampling_loss(logits, tags, sampling="exact", valid=valid)
    similar = feature_similarity_loss(
        similarity_inputs(logits, tags, valid=valid), images, sigma=3.0, valid=valid
    )
    wanted = 0.8 * pooled + 0.2 * sampled + 5 * similar
    torch.testing.assert_close(tag_loss(logits, tags, images, inside, options), wanted)


def test_an_add_on_waits_for_its_share_of_the_training(batch):
    logits, tags, images, inside = batch
    options = TagOptions(isl_weight=0.2, isl_start=0.5, fsl_weight=5, fsl_start=0.5)
    early = tag_loss(logits, tags, images, inside, options, done=0.4)
    torch.testing.assert_close(early, tag_loss(logits, tags, images, inside, TagOptions()))
    assert not torch.isclose(early, tag_loss(logits, tags, images, inside, options, done=0.5))


def test_crops_are_square_mark_padding_and_repeat():
    items = TaggedItems(Photographs())
    crops = TagCrops(items, TagOptions(crop=32, long_side=(32, 48), seed=3))
    for index in (0, 5, 11):
        item, again = crops[index], crops[index]
        assert item["image"].shape == (3, 32, 32)
        assert torch.equal(item["image"], again["image"])
        assert torch.equal(item["tags"], torch.eye(4)[index % 4])
        inside = item["target"] == 0
        assert inside.any()
        assert set(item["target"].unique().tolist()) <= {0, 255}
    sizes = {int((crops[4 * k]["target"] == 0).sum()) for k in range(8)}
    assert len(sizes) > 3  # the scale is drawn anew each epoch


def test_rescaling_keeps_the_shape_and_the_mean():
    image = torch.full((3, 20, 30), 0.25)
    found, target = rescaled(image, torch.zeros(20, 30), (60, 60), torch.Generator())
    assert found.shape == (3, 40, 60)
    assert target.shape == (40, 60)
    torch.testing.assert_close(found, torch.full_like(found, 0.25))
