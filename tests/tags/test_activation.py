"""Maps against the published codes' values (golden), and against pixel loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.tags.activation import (
    background_score,
    labels_from_cams,
    max_norm,
    normalise_cams,
    share_classes,
    similarity_inputs,
)

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = dict(np.load(GOLDEN_FOLDER / "cam_normalise_background.npz"))
SIMILARITY = dict(np.load(GOLDEN_FOLDER / "fsl_small.npz"))
POWERS = [1, 4, 8, 16, 24, 32]
TAGS = torch.from_numpy(GOLDEN["label"])[None]


def golden_cams(*, relu_first: bool = False) -> torch.Tensor:
    """All 20 classes' maps, summed over scales and flips; absent classes hold noise."""
    cams = torch.rand(1, 20, 32, 36, generator=torch.Generator().manual_seed(0)) * 9
    views = np.maximum(GOLDEN["cam_list"], 0) if relu_first else GOLDEN["cam_list"]
    cams[:, TAGS[0] > 0] = torch.from_numpy(views.sum(0))
    return cams


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("method", "key"), [("min-max", "norm_cam"), ("max", "norm_cam_psa")])
def test_normalised_maps_equal_the_published(method, key):
    found = normalise_cams(golden_cams(relu_first=method == "max"), TAGS, method=method)
    expected = torch.zeros(20, 32, 36)
    expected[TAGS[0] > 0] = torch.from_numpy(GOLDEN[key])
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-7)


def test_affinity_net_and_irn_normalise_alike():
    np.testing.assert_allclose(GOLDEN["norm_cam_psa"], GOLDEN["norm_cam_irn"], rtol=1e-6)


def test_absent_classes_can_be_what_the_published_code_makes_them():
    absent = float(GOLDEN["norm_cam_absent_class_value"])
    found = normalise_cams(golden_cams(), TAGS, absent=absent)
    assert (found[0, TAGS[0] == 0] == absent).all()
    nothing = normalise_cams(torch.zeros(1, 1, 4, 4))  # the formula gives that value by itself
    torch.testing.assert_close(nothing, torch.full_like(nothing, absent))


@pytest.mark.parametrize("percent", [10, 26, 40])
def test_labels_with_a_constant_background_equal_the_published(percent):
    cams = normalise_cams(golden_cams(), TAGS)
    found = labels_from_cams(cams, TAGS, constant=percent / 100)
    np.testing.assert_array_equal(found[0].numpy(), GOLDEN[f"pred_const_bg_{percent}"])


def test_labels_at_a_quarter_equal_the_published_evaluation():
    found = labels_from_cams(normalise_cams(golden_cams(), TAGS), TAGS, constant=0.25)
    np.testing.assert_array_equal(found[0].numpy(), GOLDEN["pred_eval_cam_t25"])


@pytest.mark.parametrize("power", POWERS)
def test_power_backgrounds_equal_the_published(power):
    cams = normalise_cams(golden_cams(), TAGS)
    np.testing.assert_allclose(
        background_score(cams, power=power)[0].numpy(), GOLDEN[f"bg_score_alpha{power}"], rtol=1e-4
    )
    found = labels_from_cams(cams, TAGS, power=power)
    np.testing.assert_array_equal(found[0].numpy(), GOLDEN[f"pred_power_bg_alpha{power}"])


def test_range_is_the_affine_map_to_0_and_1():
    cams = random_logits(0, 2, 3, 4, 5)
    found = normalise_cams(cams, method="range")
    for n, c in np.ndindex(2, 3):
        low, high = cams[n, c].min(), cams[n, c].max()
        torch.testing.assert_close(
            found[n, c], (cams[n, c] - low) / (high - low), rtol=1e-6, atol=1e-7
        )


def test_max_makes_nothing_of_a_map_of_negative_scores():
    assert (normalise_cams(torch.full((1, 1, 2, 2), -0.5), method="max") == 0).all()


def test_inputs_of_the_similarity_loss_equal_the_published():
    logits = torch.from_numpy(SIMILARITY["logits"])
    tags = torch.from_numpy(SIMILARITY["label"])[:, 1:]
    binomial = similarity_inputs(logits[:, 1:], tags)
    torch.testing.assert_close(binomial, torch.from_numpy(SIMILARITY["y_maxnorm"]))
    multinomial = similarity_inputs(logits, tags, form="multinomial")
    torch.testing.assert_close(multinomial, torch.from_numpy(SIMILARITY["y_softmax"]))


@given(st.integers(0, 10**6), st.sampled_from([0, None]))
def test_competing_maps_count_by_their_share_pixel_by_pixel(seed, background):
    generator = torch.Generator().manual_seed(seed)
    logits, tags = random_logits(seed, 2, 4, 3, 5), torch.rand(2, 4, generator=generator) > 0.5
    found = similarity_inputs(logits, tags, form="competitive", background=background)
    alone = max_norm(logits)
    for n, y, x in np.ndindex(2, 3, 5):
        own = [float(alone[n, c, y, x]) if tags[n, c] else 0.0 for c in range(4)]
        expected = [m * m / sum(own) if m > 0 else 0.0 for m in own]
        if background == 0:
            expected.insert(0, 1 - max(own))
        assert found[n, :, y, x].tolist() == pytest.approx(expected, abs=1e-12)


def test_without_a_rival_competing_maps_are_the_published_ones_in_value_and_gradient():
    logits, tags = random_logits(6, 3, 3, 4, 4), torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    found = {}
    for form in ("binomial", "competitive"):
        given = logits.clone().requires_grad_()
        maps = similarity_inputs(given, tags, form=form)
        (maps**3).sum().backward()
        found[form] = (maps, given.grad)
    for one, other in zip(found["competitive"], found["binomial"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10**6))
def test_competing_maps_have_a_gradient_wherever_maps_are_zero(seed):
    logits = random_logits(seed, 1, 3, 3, 3).round().requires_grad_()
    similarity_inputs(logits, torch.ones(1, 3), form="competitive").sum().backward()
    assert logits.grad.isfinite().all()


def test_without_a_background_there_is_no_background_map():
    logits, tags = random_logits(1, 2, 3, 4, 4), torch.tensor([[1, 0, 1], [0, 0, 0]])
    found = similarity_inputs(logits, tags, background=None)
    assert torch.equal(found, similarity_inputs(logits, tags)[:, 1:])
    soft = similarity_inputs(logits, tags, form="multinomial", background=None)
    torch.testing.assert_close(soft, logits.softmax(1))


def test_an_image_without_tags_is_all_background():
    logits, none = random_logits(2, 1, 3, 4, 4), torch.zeros(1, 3)
    maps = similarity_inputs(logits, none)
    assert (maps[:, 0] == 1).all()
    assert (maps[:, 1:] == 0).all()
    assert (labels_from_cams(logits, none, power=2) == 0).all()
    assert (labels_from_cams(logits, none, background=None) == 255).all()


def test_max_norm_is_differentiable_through_minimum_and_maximum():
    logits = random_logits(3, 1, 2, 3, 3).exp().requires_grad_()
    assert torch.autograd.gradcheck(max_norm, (logits,))
    max_norm(logits).sum().backward()
    highest = logits[0, 0].argmax()
    assert logits.grad[0, 0].flatten()[highest] < 0  # a higher maximum lowers all the others


@given(st.integers(0, 10**6), st.sampled_from(["binomial", "competitive", "multinomial"]))
def test_pixels_that_are_not_valid_cannot_matter(seed, form):
    generator = torch.Generator().manual_seed(seed)
    logits = random_logits(seed, 2, 4, 3, 5)
    valid = torch.rand(2, 3, 5, generator=generator) > 0.4
    spoilt = logits.masked_fill(~valid[:, None], torch.nan).requires_grad_()
    tags = torch.ones(2, 4 - (form == "multinomial"))
    found = similarity_inputs(spoilt, tags, form=form, valid=valid)
    assert torch.equal(found, similarity_inputs(logits, tags, form=form, valid=valid))
    (found**2).sum().backward()
    assert (spoilt.grad[(~valid)[:, None].expand_as(spoilt)] == 0).all()
    assert spoilt.grad.isfinite().all()


def test_valid_pixels_are_normalised_as_if_there_were_no_others():
    logits, valid = random_logits(4, 1, 3, 6, 7), torch.zeros(1, 6, 7, dtype=torch.bool)
    valid[:, 1:4, 2:6] = True
    found = max_norm(logits, valid=valid)
    torch.testing.assert_close(found[:, :, 1:4, 2:6], max_norm(logits[:, :, 1:4, 2:6]))
    assert (found[~valid[:, None].expand_as(found)] == 0).all()


@given(st.integers(0, 10**6), st.sampled_from([0, None]))
def test_labels_are_the_best_tagged_class_pixel_by_pixel(seed, background):
    generator = torch.Generator().manual_seed(seed)
    cams = torch.rand(2, 4, 2, 3, generator=generator)
    tags = torch.rand(2, 4, generator=generator) > 0.5
    constant = 0.5 if background == 0 else None
    found = labels_from_cams(cams, tags, constant=constant, background=background)
    for n, y, x in np.ndindex(2, 2, 3):
        scores = {c + (background == 0): cams[n, c, y, x] for c in range(4) if tags[n, c]}
        if background == 0:
            scores[0] = 0.5
        expected = max(scores, key=scores.get) if scores else 255
        assert found[n, y, x] == expected


def test_half_precision_is_computed_in_single():
    cams = torch.rand(1, 2, 4, 4).half()
    assert normalise_cams(cams).dtype == max_norm(cams).dtype == torch.float32
    assert similarity_inputs(cams, torch.ones(1, 2)).dtype == torch.float32


CAMS, ONE = torch.zeros(2, 3, 4, 4), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_norm(CAMS[0]), r"logits: want float \(N, C, h, w\).*got .*\(3, 4, 4\)"),
        (lambda: max_norm(CAMS.long()), "logits: want float.*got torch.int64"),
        (lambda: max_norm(CAMS, valid=CAMS[:, 0]), "valid: want bool .*got torch.float32"),
        (lambda: normalise_cams(CAMS, ONE[:, 1:]), r"tags: want \(2, 3\)"),
        (lambda: normalise_cams(CAMS, method="mean"), "method: want one of .*'mean'"),
        (lambda: similarity_inputs(CAMS, ONE, form="soft"), "form: want one of .*'soft'"),
        (lambda: similarity_inputs(CAMS, ONE, form="multinomial"), r"tags: want \(2, 2\)"),
        (lambda: similarity_inputs(CAMS, ONE, background=1), "background: want 0 or None"),
        (lambda: background_score(CAMS), "exactly one of constant and power"),
        (lambda: background_score(CAMS, constant=0.1, power=2), "exactly one of constant"),
        (lambda: background_score(CAMS, power=0), "above 0"),
        (lambda: labels_from_cams(CAMS, ONE), "exactly one of constant and power"),
        (lambda: labels_from_cams(CAMS, ONE, power=2, background=None), "want neither"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()


@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(0, 3))
def test_shared_maps_keep_a_place_its_strength_and_change_whose_it_is(seed, share, count):
    cams, plain = random_logits(seed, 2, 3, 4, 5), random_logits(seed + 1, 2, 3, 4, 5)
    tags = (torch.arange(3) < count).repeat(2, 1).long()
    found = share_classes(cams, plain, tags, share=share)
    own, other = (normalise_cams(m, tags).clamp(min=0) for m in (cams, plain))
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        votes = [(1 - share) * float(own[n, k, y, x]) + share * float(other[n, k, y, x])
                 for k in range(3)]  # fmt: skip
        part = votes[c] / max(votes) if max(votes) > 0 else 0
        want = float(own[n, :, y, x].max()) * part
        assert float(found[n, c, y, x]) == pytest.approx(want, rel=1e-9, abs=1e-12)
    if count <= 1 or share == 0:
        torch.testing.assert_close(found, own)


def test_shares_and_shapes_that_make_no_sense_are_refused():
    cams, tags = torch.rand(1, 2, 3, 3), torch.ones(1, 2)
    with pytest.raises(SegmendError, match=r"share: want 0 to 1, got 1\.5"):
        share_classes(cams, cams, tags, share=1.5)
    with pytest.raises(SegmendError, match=r"plain: want the shape of cams, \(1, 2, 3, 3\), got"):
        share_classes(cams, cams[:, :1], tags, share=0.5)
