"""Pseudo-masks end to end on small scenes, with the parts tested elsewhere as reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.activation import background_score, labels_from_cams, normalise_cams
from segmend.tags.dense_crf import CrfSettings
from segmend.tags.pseudo_masks import BackgroundPower, pseudo_mask

HEIGHT, WIDTH = 18, 24


def blobs():
    """(cams (3, H, W), image): class 0 left, class 2 right, class 1 untagged but strongest."""
    rows, cols = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")

    def blob(x):
        return torch.exp(-((rows - 9) ** 2 + (cols - x) ** 2) / 18.0)

    cams = torch.stack([3 * blob(6), 50 * blob(12), blob(18)])
    image = torch.full((3, HEIGHT, WIDTH), 0.2)
    image[0, (rows - 9) ** 2 + (cols - 6) ** 2 <= 16] = 0.9
    image[1, (rows - 9) ** 2 + (cols - 18) ** 2 <= 16] = 0.9
    return cams, image


TAGS = torch.tensor([1, 0, 1])


@given(
    st.integers(0, 2**16),
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    st.sampled_from([0.26, BackgroundPower(4.0), None]),
)
def test_without_refinement_it_is_the_strongest_score(seed, tags, background):
    generator = torch.Generator().manual_seed(seed)
    cams, tags = torch.rand(1, 3, 4, 5, generator=generator), torch.tensor([tags])
    image = torch.rand(3, 4, 5, generator=generator)
    found = pseudo_mask(cams[0], tags[0], image, background=background, refine=None)
    constant = background if isinstance(background, float) else None
    power = background.exponent if isinstance(background, BackgroundPower) else None
    wanted = labels_from_cams(
        normalise_cams(cams, tags),
        tags,
        constant=constant,
        power=power,
        background=None if background is None else 0,
    )
    assert found.labels.dtype == torch.uint8
    assert torch.equal(found.labels.long(), wanted[0])
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()


@pytest.mark.parametrize("refine", ["crf", "pamr", None])
@pytest.mark.parametrize("background", [0.26, BackgroundPower(4.0), None])
def test_only_tags_and_background_are_given_out(refine, background):
    cams, image = blobs()
    mask = pseudo_mask(cams, TAGS, image, background=background, refine=refine)
    assert set(mask.labels.unique().tolist()) == ({0, 2} if background is None else {0, 1, 3})
    assert mask.labels.shape == mask.confidence.shape == (HEIGHT, WIDTH)
    first = 0 if background is None else 1
    assert mask.labels[9, 6] == first
    assert mask.labels[9, 18] == first + 2
    assert not torch.equal(pseudo_mask(cams, TAGS, image).labels, torch.zeros(HEIGHT, WIDTH))


def test_crf_follows_the_colours():
    cams, image = blobs()
    truth = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    truth[image[0] > 0.5] = 1
    truth[image[1] > 0.5] = 3
    wrong = {
        refine: (pseudo_mask(cams, TAGS, image, refine=refine).labels != truth).sum().item()
        for refine in ("crf", None)
    }
    assert wrong["crf"] < wrong[None] / 2


def test_small_maps_are_resized_to_the_image():
    cams, image = blobs()
    mask = pseudo_mask(cams[:, ::3, ::3], TAGS, image, refine=None)
    assert mask.labels.shape == (HEIGHT, WIDTH)
    whole = pseudo_mask(cams, TAGS, image, refine=None)
    assert (mask.labels == whole.labels).float().mean() > 0.8


@pytest.mark.parametrize("refine", ["crf", None])
def test_no_tags_is_background_or_unknown(refine):
    cams, image = blobs()
    mask = pseudo_mask(cams, torch.zeros(3), image, refine=refine)
    assert not mask.labels.any()
    assert (mask.confidence == 1).all()
    mask = pseudo_mask(cams, torch.zeros(3), image, background=None, refine=refine, ignore_index=99)
    assert (mask.labels == 99).all()
    assert not mask.confidence.any()


def test_unsure_pixels_are_ignored():
    cams, image = blobs()
    weak = CrfSettings(smooth_weight=1, colour_weight=1)
    whole = pseudo_mask(cams, TAGS, image, crf=weak)
    sure = pseudo_mask(cams, TAGS, image, crf=weak, min_confidence=0.9)
    kept = whole.confidence >= 0.9
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(sure.labels, whole.labels.where(kept, 255))
    assert torch.equal(sure.confidence, whole.confidence)


def test_pixels_that_the_refinement_changed_are_ignored():
    cams, image = blobs()
    before = pseudo_mask(cams, TAGS, image, refine=None).labels
    after = pseudo_mask(cams, TAGS, image).labels
    changed = before != after
    assert 0 < changed.sum() < changed.numel()
    agreed = pseudo_mask(cams, TAGS, image, need_agreement=True, ignore_index=200).labels
    assert torch.equal(agreed, after.where(~changed, 200))


@pytest.mark.parametrize("least", [0.4, 0.6])
def test_pixels_whose_label_has_a_small_share_of_the_scores_are_ignored(least):
    cams, image = blobs()
    whole = pseudo_mask(cams, TAGS, image)
    found = pseudo_mask(cams, TAGS, image, min_share=least)
    maps = normalise_cams(cams[TAGS > 0][None])
    scores = torch.cat([background_score(maps, constant=0.26), maps[0]])
    names = [0, *(int(tag) + 1 for tag in TAGS.nonzero())]
    kept = torch.zeros_like(whole.labels, dtype=torch.bool)
    for score, name in zip(scores, names, strict=True):
        kept |= (whole.labels == name) & (score / scores.sum(0) > least)
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(found.labels, whole.labels.where(kept, 255))
    assert torch.equal(found.confidence, whole.confidence)
    if least > 0.5:
        agreed = pseudo_mask(cams, TAGS, image, need_agreement=True).labels
        assert (agreed[kept] != 255).all()


def test_where_no_map_says_anything_no_label_has_the_majority():
    cams, image = torch.zeros(2, 6, 6), torch.rand(3, 6, 6)
    tags = torch.ones(2)
    for refine in ("crf", None):
        mask = pseudo_mask(cams, tags, image, background=None, refine=refine, min_share=0.5)
        assert (mask.labels == 255).all()


def test_the_only_candidate_has_all_of_the_scores():
    cams, image = blobs()
    one = torch.zeros_like(TAGS)
    one[int(TAGS.nonzero()[0])] = 1
    mask = pseudo_mask(cams, one, image, background=None, min_share=0.99)
    assert (mask.labels == int(one.argmax())).all()


def test_maps_already_in_range_are_left_alone():
    cams = torch.tensor([0.3, 0.2]).reshape(2, 1, 1).expand(2, 4, 4)
    image = torch.zeros(3, 4, 4)
    options = {"background": 0.25, "refine": None}
    mask = pseudo_mask(cams, torch.ones(2), image, normalise=None, **options)
    assert (mask.labels == 1).all()
    torch.testing.assert_close(mask.confidence, torch.full((4, 4), 0.3 / 0.75))
    assert not pseudo_mask(cams, torch.ones(2), image, **options).labels.any()  # flat: no peak


@pytest.mark.parametrize("refine", ["crf", "pamr", None])
def test_empty_maps_do_not_break(refine):
    image = torch.rand(3, 6, 6)
    mask = pseudo_mask(torch.zeros(2, 6, 6), torch.ones(2), image, background=None, refine=refine)
    assert (mask.labels < 2).all()
    torch.testing.assert_close(mask.confidence, torch.full((6, 6), 0.5))
    one = pseudo_mask(torch.zeros(1, 6, 6), torch.ones(1), image, background=None, refine=refine)
    assert not one.labels.any()
    assert (one.confidence == 1).all()


CAMS, IMAGE = blobs()
BROKEN = CAMS.clone()
BROKEN[1, 0, 0] = torch.nan
BROKEN[2, 0, 0] = torch.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pseudo_mask(BROKEN, TAGS, IMAGE),
            r"NaN or infinity in the maps of classes \[1, 2\]",
        ),
        (lambda: pseudo_mask(CAMS[0], TAGS, IMAGE), r"cams: want float \(C, h, w\)"),
        (lambda: pseudo_mask(CAMS, TAGS[:2], IMAGE), r"tags: want \(3,\)"),
        (lambda: pseudo_mask(CAMS, TAGS, IMAGE[:2]), r"image: want float \(3, H, W\)"),
        (lambda: pseudo_mask(CAMS, TAGS, IMAGE, refine="no"), "refine: want one of"),
        (lambda: pseudo_mask(CAMS, TAGS, IMAGE, ignore_index=3), "above all 4 labels, got 3"),
        (lambda: pseudo_mask(CAMS, TAGS, IMAGE, ignore_index=256), "ignore_index: want"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
