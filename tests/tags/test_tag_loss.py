"""The loss of a tag classifier is the sum that its settings say."""

import pytest
import torch
from torch.nn import functional as F

from segmend.tags.activation import similarity_inputs
from segmend.tags.importance import importance_sampling_loss
from segmend.tags.loss import believed_tags, cells_inside, similarity_loss, tag_loss
from segmend.tags.method_loss import Step, seam_loss
from segmend.tags.network import build_classifier
from segmend.tags.options import TagOptions
from segmend.tags.seam import seam_losses
from segmend.tags.similarity import feature_similarity_loss


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


@pytest.mark.parametrize("background", [0, None])
def test_the_multinomial_form_compares_a_softmax_with_a_background_of_zero(batch, background):
    logits, tags, images, inside = batch
    valid = cells_inside(inside, (6, 6))
    odds = logits.exp()
    maps = odds / (odds.sum(1, keepdim=True) + (background is not None))
    if background == 0:
        maps = torch.cat([1 - maps.sum(1, keepdim=True), maps], 1)
    maps = maps * valid[:, None]
    wanted = 5 * feature_similarity_loss(maps, images, sigma=3.0, valid=valid)
    options = TagOptions(fsl_weight=5, fsl_form="multinomial", sigma=24)
    found = similarity_loss(logits, tags, images, valid, options, background=background, done=1)
    torch.testing.assert_close(found, wanted)


def test_an_add_on_waits_for_its_share_of_the_training(batch):
    logits, tags, images, inside = batch
    options = TagOptions(isl_weight=0.2, isl_start=0.5, fsl_weight=5, fsl_start=0.5)
    early = tag_loss(logits, tags, images, inside, options, done=0.4)
    torch.testing.assert_close(early, tag_loss(logits, tags, images, inside, TagOptions()))
    assert not torch.isclose(early, tag_loss(logits, tags, images, inside, options, done=0.5))


@pytest.mark.parametrize("form", ["binomial", "competitive"])
def test_an_image_of_several_tags_counts_as_far_as_they_are_believed(batch, form):
    logits, _, images, inside = batch
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    valid = cells_inside(inside, (6, 6))

    def loss(trust, rows=slice(None)):
        options = TagOptions(fsl_weight=5, fsl_form=form, fsl_trust=trust)
        parts = (each[rows] for each in (logits, tags, images, valid))
        return similarity_loss(*parts, options, background=0, done=1)

    scores = logits[:, :, :3].mean((2, 3)).sigmoid()
    trusts = ((scores[0, 0] + scores[0, 2]) / 2, 1.0)  # one tag alone has none to be taken for
    alone = [loss(False, slice(n, n + 1)) for n in range(2)]
    wanted = sum(trust * one for trust, one in zip(trusts, alone, strict=True)) / 2
    torch.testing.assert_close(loss(True), wanted)


def test_nothing_is_believed_of_tags_that_are_ruled_out_and_fewer_than_two_are_no_doubt():
    scores, tags = torch.full((3, 2), -torch.inf), torch.tensor([[1.0, 1], [0, 0], [0, 1]])
    assert believed_tags(scores, tags).tolist() == [0, 1, 1]


def test_two_views_add_up_seam_s_losses_and_the_similarity_of_the_full_view():
    torch.manual_seed(0)
    model = build_classifier(num_classes=4, method="seam").eval()
    images, tags = torch.rand(2, 3, 80, 80), torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]])
    inside = torch.ones(2, 80, 80, dtype=torch.bool)
    options = TagOptions(method="seam", fsl_weight=2, sampling="exact")
    found = seam_loss(model, Step(images, tags, inside, options))
    small = F.interpolate(images, size=(24, 24), mode="bilinear", align_corners=True)
    views = [model.view(view)[:2] for view in (images, small)]
    logits, revised = zip(*views, strict=True)
    valid = cells_inside(inside, logits[0].shape[2:])
    similar = similarity_loss(logits[0], tags, images, valid, options, background=0, done=1.0)
    torch.testing.assert_close(found, seam_losses(logits, revised, tags).total + similar)


def test_every_part_of_a_seam_network_learns():
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method="seam").train()
    inside = torch.ones(1, 64, 64, dtype=torch.bool)
    tags = torch.tensor([[1.0, 0, 1]])
    seam_loss(model, Step(torch.rand(1, 3, 64, 64), tags, inside, TagOptions())).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
