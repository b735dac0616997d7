"""Puzzle-CAM, ReCAM, SIPE, AMN and PPC against their equations, written out in loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmend import SegmendError
from segmend.tags.amn import balanced_cross_entropy
from segmend.tags.method_loss import Step, method_loss
from segmend.tags.network import build_classifier
from segmend.tags.options import TagOptions
from segmend.tags.ppc import (
    Contrast,
    contrast_losses,
    contrast_scores,
    prototype_contrast,
    prototypes,
)
from segmend.tags.puzzle import merged, ramp, reconstruction_loss, tiled
from segmend.tags.recam import class_features, present_class_loss
from segmend.tags.sipe import present_cams, prototype_cams, structure_seeds

TAGS = torch.tensor([[1.0, 0, 1], [0, 0, 0]])


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def step(size=(40, 56), **options):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    inside = torch.ones(2, *size, dtype=torch.bool)
    inside[:, 32:] = False
    labels = torch.zeros(2, *size, dtype=torch.int64)
    labels[0, :16], labels[0, 16:24], labels[1, :, 16:] = 1, 3, 255
    return Step(images, TAGS, inside, TagOptions(**options), labels=labels)


METHODS = ["puzzle", "recam", "sipe", "amn", "ppc"]


@pytest.mark.parametrize("method", METHODS)
def test_every_part_learns_from_the_loss(method):
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method=method, output_stride=16)
    loss = method_loss(model, step(fsl_weight=1, isl_weight=0.2))
    loss.backward()
    assert loss.isfinite()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_tags_and_maps_of_any_size(method):
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method=method, output_stride=16)
    plain = step()
    nothing = torch.full_like(plain.labels, 255)
    untagged = replace(plain, tags=torch.zeros(2, 3), labels=nothing)
    assert method_loss(model, untagged).isfinite()
    with torch.no_grad():
        found, pixel = (
            model.eval().read(torch.rand(1, 3, *size), torch.tensor([[1.0, 0, 0]]))
            for size in ((17, 33), (1, 1))
        )
    assert found.maps.shape == (1, 3, 2, 3)
    assert found.maps.min() >= 0
    assert found.scores.shape == (1, 3)
    assert pixel.maps.shape == (1, 3, 1, 1)
    assert pixel.maps.isfinite().all()


@pytest.mark.parametrize("method", ["puzzle", "recam", "sipe", "amn"])
def test_without_its_own_term_a_method_is_what_it_builds_on(method):
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method=method, output_stride=16).eval()
    given = step(size=(32, 64), method_weight=0)
    found = method_loss(model, given) - given.tag_loss(model(given.images))
    wanted = torch.tensor(0.0)
    if method == "puzzle":
        scores = merged(model(tiled(given.images))).mean((2, 3))
        wanted = F.multilabel_soft_margin_loss(scores, TAGS)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_tiles_are_put_together_again(rng):
    images = torch.rand(3, 2, 4, 6, generator=rng)
    assert torch.equal(merged(tiled(images)), images)
    assert torch.equal(tiled(images)[3:6], images[:, :, :2, 3:])
    with pytest.raises(SegmendError, match="even sides, got 5 x 6"):
        tiled(torch.rand(1, 3, 5, 6))


def test_puzzle_compares_tagged_classes_inside_the_image(rng):
    whole, parts = (torch.randn(2, 3, 2, 4, generator=rng) for _ in range(2))
    valid = torch.ones(2, 2, 4, dtype=torch.bool)
    valid[0, 1] = False
    total = sum(
        float(abs(whole[n, c, y, x] - parts[n, c, y, x])) * float(TAGS[n, c])
        for n, c, y, x in np.ndindex(whole.shape)
        if valid[n, y, x]
    )
    found = reconstruction_loss(whole, parts, TAGS, valid)
    assert float(found) == pytest.approx(total / (int(valid.sum()) * 3), rel=1e-5)
    assert [ramp(0), ramp(0.25), ramp(0.9)] == [0, 0.5, 1]


def test_features_of_a_class_are_weighted_by_its_map(rng):
    logits, features = (
        torch.randn(2, 3, 2, 2, generator=rng),
        torch.randn(2, 5, 2, 2, generator=rng),
    )
    found = class_features(logits, features)
    for n, c, d in np.ndindex(found.shape):
        cam = logits[n, c].clamp(min=0)
        wanted = (cam / (cam.max() + 1e-5) * features[n, d]).mean()
        torch.testing.assert_close(found[n, c, d], wanted)
    half = torch.zeros(2, 2, 2, dtype=torch.bool)
    half[:, 0] = True
    one = class_features(logits, features, half)
    torch.testing.assert_close(one, class_features(logits[:, :, :1], features[:, :, :1]))


def test_only_present_classes_are_told_apart(rng):
    scores = torch.randn(2, 3, 3, generator=rng)
    wanted = -(scores[0, 0].log_softmax(0)[0] + scores[0, 2].log_softmax(0)[2]) / 2
    torch.testing.assert_close(present_class_loss(scores, TAGS), wanted)
    assert present_class_loss(scores, torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("size", [(3, 4), (6, 8)])
def test_background_and_foreground_weigh_the_same(rng, size):
    logits, labels = (
        torch.randn(2, 4, 3, 4, generator=rng),
        torch.randint(0, 4, (2, *size), generator=rng),
    )
    labels[:, -2:] = 255
    near = labels[:, size[0] // 3 - 1 :: size[0] // 3, size[1] // 4 - 1 :: size[1] // 4]
    groups = {True: [], False: []}
    for n, y, x in np.ndindex(*near.shape):
        label = int(near[n, y, x])
        if label != 255:
            groups[label == 0].append(-float(logits[n, :, y, x].log_softmax(0)[label]))
    wanted = (np.mean(groups[True]) + np.mean(groups[False])) / 2
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(wanted, rel=1e-5)


def test_a_group_without_pixels_is_left_out(rng):
    logits = torch.randn(1, 3, 2, 2, generator=rng, requires_grad=True)
    wanted = F.cross_entropy(logits, torch.ones(1, 2, 2, dtype=torch.int64))
    found = balanced_cross_entropy(logits, torch.ones(1, 2, 2, dtype=torch.int64))
    torch.testing.assert_close(found, wanted)
    nothing = balanced_cross_entropy(logits, torch.full((1, 2, 2), 255))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()
    with pytest.raises(SegmendError, match=r"labels: want int64 \(1, H, W\), got torch.float32"):
        balanced_cross_entropy(logits, torch.zeros(1, 2, 2))


def test_pixels_are_classified_given_the_tags():
    """The embedding starts at 1: tags change nothing until it has learnt."""
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method="amn", output_stride=16).eval()
    images = torch.rand(1, 3, 32, 32)
    tags = torch.tensor([[1.0, 0, 1]])
    with torch.no_grad():
        plain, given = model.read(images, torch.zeros(1, 3)), model.read(images, tags)
        assert torch.equal(plain.maps, given.maps)
        model.embedding.weight.normal_()
        given = model.read(images, tags).maps
        assert not torch.equal(plain.maps, given)
        assert given.sum(1).max() <= 1 + 1e-6
        model.head.weight.zero_()  # all scores 0, that is all tags
        torch.testing.assert_close(model.read(images).maps, model.read(images, tags.fill_(1)).maps)


def test_without_a_background_labels_are_the_classes():
    torch.manual_seed(0)
    model = build_classifier(num_classes=3, method="amn", output_stride=16).eval()
    given = step(size=(32, 64), fsl_weight=1)
    shifted = given.labels.where(given.labels == 255, given.labels - 1)
    shifted[shifted < 0] = 255
    one = method_loss(model, replace(given, background=None, labels=shifted))
    foreground = given.labels.where(given.labels != 0, 255)
    two = method_loss(model, replace(given, labels=foreground))
    plain = replace(given, options=TagOptions())
    three = method_loss(model, replace(plain, labels=foreground))
    assert one != two  # similarity compares three maps, or four
    torch.testing.assert_close(
        method_loss(model, replace(plain, background=None, labels=shifted)), three
    )


def test_pixels_want_labels():
    model = build_classifier(num_classes=3, method="amn", output_stride=16)
    with pytest.raises(SegmendError, match="amn: wants labels"):
        method_loss(model, replace(step(), labels=None))


def test_seeds_are_those_of_the_largest_overlap(rng):
    logits, features = (
        torch.randn(2, 3, 3, 3, generator=rng),
        torch.randn(2, 4, 3, 3, generator=rng),
    )
    cams = present_cams(logits, TAGS)
    found = structure_seeds(cams, features, TAGS)
    assert torch.equal(found[1], torch.zeros(3, 3, dtype=torch.int64))
    flat = features[0].flatten(1).T
    for i in range(9):
        alike = torch.cosine_similarity(flat[i][None], flat).clamp(min=0)
        overlaps = {}
        for c in (0, 1, 3):  # background and the tagged classes
            cam = cams[0, c].flatten()
            overlap = torch.minimum(alike, cam).sum() / torch.maximum(alike, cam).sum()
            overlaps[c] = float(overlap) * (0.5 if c == 0 else 1)
        assert int(found[0].flatten()[i]) == max(overlaps, key=overlaps.get)


def test_seeds_do_not_see_padding(rng):
    logits, features = (
        torch.randn(1, 2, 3, 4, generator=rng),
        torch.randn(1, 4, 3, 4, generator=rng),
    )
    valid, tags = torch.ones(1, 3, 4, dtype=torch.bool), torch.ones(1, 2)
    valid[..., 3] = False
    whole = structure_seeds(present_cams(logits, tags, valid), features, tags, valid)
    part = structure_seeds(present_cams(logits[..., :3], tags), features[..., :3], tags)
    assert torch.equal(whole[..., :3], part)
    own = prototype_cams(whole, features, 3, valid)[..., :3]
    torch.testing.assert_close(own, prototype_cams(part, features[..., :3], 3))


def test_prototypes_of_an_image_are_means_of_its_seeds(rng):
    features, seeds = torch.randn(1, 4, 2, 3, generator=rng), torch.tensor([[[0, 2, 2], [0, 0, 2]]])
    found = prototype_cams(seeds, features, 3)
    assert not found[:, 1].any()
    mean = features[0][:, seeds[0] == 2].mean(1)
    wanted = torch.cosine_similarity(features[0], mean[:, None, None], dim=0).clamp(min=0)
    torch.testing.assert_close(found[0, 2], wanted)


def contrast_case(rng):
    features = F.normalize(torch.randn(2, 5, 4, 4, generator=rng), dim=1)
    revised = torch.rand(2, 4, 4, 4, generator=rng)
    return Contrast(features, contrast_scores(revised, TAGS), None)


def test_labels_are_tagged_classes_above_the_background(rng):
    scores = contrast_case(rng).scores
    assert torch.equal(scores[:, 0], torch.full((2, 4, 4), 0.2))
    assert set(scores[0].argmax(0).unique().tolist()) <= {0, 1, 3}
    assert not scores[1].argmax(0).any()


def test_prototypes_of_a_batch_are_weighted_means_of_its_best_pixels(rng):
    features, _, _ = contrast_case(rng)
    tags = torch.tensor([[1.0, 0, 1], [0, 0, 1]])  # without a tag all background would be equal
    scores = contrast_scores(torch.rand(2, 4, 4, 4, generator=rng) ** 4, tags)
    points, known = prototypes(features, scores)
    assert known.tolist() == [True, True, False, True]
    labels = scores.argmax(1)
    for c in (0, 1, 3):
        weights = 1 - scores[:, 1:].amax(1) if c == 0 else scores[:, c]
        cells = [
            (float(weights[n, y, x]), features[n, :, y, x])
            for n, y, x in np.ndindex(*labels.shape)
            if labels[n, y, x] == c
        ]
        best = sorted(cells, key=lambda cell: -cell[0])[:2]  # 4 * 4 / 8
        wanted = F.normalize(sum(w * f for w, f in best), dim=0)
        torch.testing.assert_close(points[c], wanted)


@pytest.mark.parametrize("hard_share", [1.0, 0.5])
def test_contrast_of_pixels_and_prototypes(rng, hard_share):
    features, scores, _ = contrast_case(rng)
    points, known = prototypes(features, scores)
    labels = scores.argmax(1)
    labels[0, 0, 0] = 2  # without a prototype: not counted
    losses = []
    for n, y, x in np.ndindex(*labels.shape):
        own = int(labels[n, y, x])
        if own == 2:
            continue
        similar = {c: float(features[n, :, y, x] @ points[c]) / 0.1 for c in (0, 1, 3)}
        rest = sorted((s for c, s in similar.items() if c != own), reverse=True)
        rest = rest if hard_share == 1 else rest[:1]
        total = np.exp(similar[own]) + sum(np.exp(s) for s in rest)
        losses.append(-np.log(np.exp(similar[own]) / total))
    found = prototype_contrast(features, labels, (points, known), hard_share=hard_share)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


def test_contrast_does_not_care_which_view_comes_first(rng):
    one, two = contrast_case(rng), contrast_case(rng)
    torch.testing.assert_close(contrast_losses(one, two), contrast_losses(two, one))
    assert contrast_losses(one, one) != contrast_losses(one, two)
