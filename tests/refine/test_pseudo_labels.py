"""Pseudo-labels: binary on top of thresholds, fallbacks, and many classes one against the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from threshold_oracle import best_patch_cuts, patches_of

from segmend import SegmendError
from segmend.refine.class_margins import claim, log_odds
from segmend.refine.patch_masks import apply_thresholds
from segmend.refine.pseudo_labels import multiclass_pseudo_labels, patch_pseudo_labels
from segmend.refine.thresholds import best_thresholds


def random_pair(seed, *, classes=2, shape=(2, 7, 9)):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.2] = 255
    return torch.rand(shape, generator=generator), target


@given(st.integers(0, 10_000), st.sampled_from(["patch", "image"]))
def test_labels_are_the_thresholded_scores_and_ignored_pixels_stay(seed, objective):
    probs, target = random_pair(seed)
    labels = patch_pseudo_labels(probs, target, patch_size=4, objective=objective)
    found = best_thresholds(probs, target, patch_size=4, objective=objective)
    expected = apply_thresholds(probs, found, patch_size=4).long()
    assert labels.dtype == torch.int64
    assert torch.equal(labels == 255, target == 255)
    assert torch.equal(labels[target != 255], expected[target != 255])


@given(st.integers(0, 10_000))
def test_perfect_scores_give_the_target(seed):
    noise, target = random_pair(seed)
    # Right within each patch, though not on either side of 0.5: each patch has its own level.
    level = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(seed))
    level = level.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :7, :9]
    probs = (target == 1) * 0.1 + noise * 0.09 + level * 0.8
    assert torch.equal(patch_pseudo_labels(probs, target, patch_size=4), target)


def test_patches_below_min_iou_fall_back():
    # Left patch: perfect. Right patch: the one positive ranks last, best IoU 1/4.
    probs = torch.tensor([[[0.2, 0.8, 0.9, 0.1], [0.1, 0.9, 0.8, 0.7]]])
    target = torch.tensor([[[0, 1, 0, 1], [0, 255, 0, 0]]])
    kept = torch.tensor([[[0, 1, 1, 1], [0, 255, 1, 1]]])
    options = {"patch_size": 2, "ties": "largest"}
    assert torch.equal(patch_pseudo_labels(probs, target, **options), kept)
    assert torch.equal(patch_pseudo_labels(probs, target, min_iou=0.25, **options), kept)
    replaced = patch_pseudo_labels(probs, target, min_iou=0.26, **options)
    assert torch.equal(replaced, target)
    ignored = patch_pseudo_labels(probs, target, min_iou=0.26, fallback="ignore", **options)
    assert ignored.tolist() == [[[0, 1, 255, 255], [0, 255, 255, 255]]]


def test_quantised_maps_give_the_labels_of_their_probabilities():
    probs, target = random_pair(3)
    levels = (probs * 255).round().byte()
    assert torch.equal(
        patch_pseudo_labels(levels, target, patch_size=4),
        patch_pseudo_labels(levels / 255, target, patch_size=4),
    )


def test_no_image_gives_no_labels():
    nothing = torch.zeros(0, 4, 6)
    labels = patch_pseudo_labels(nothing, nothing.long(), patch_size=4, min_iou=0.5)
    assert labels.shape == (0, 4, 6)
    several = multiclass_pseudo_labels(torch.zeros(0, 3, 4, 6), nothing.long(), patch_size=4)
    assert several.shape == (0, 4, 6)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_targets_of_other_integer_dtypes(dtype):
    probs = torch.tensor([[[0.2, 0.3, 0.1]]])
    target = torch.tensor([[[0, 1, 0]]])
    labels = patch_pseudo_labels(probs, target.to(dtype), patch_size=4, min_iou=0.5)
    assert torch.equal(labels, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_iou": 2.0}, "min_iou: want None or a number in .* got 2.0"),
        ({"fallback": "base"}, "fallback: want target or ignore, got 'base'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(SegmendError, match=message):
        patch_pseudo_labels(*random_pair(0), patch_size=4, **options)


def many(seed, classes=3):
    _, target = random_pair(seed, classes=classes, shape=(2, 5, 6))
    logits = torch.randn(
        2, classes, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return logits * 2, target


@given(st.integers(0, 10_000), st.sampled_from(["nearest", "largest", "smallest"]))
def test_classes_against_loops(seed, ties):
    """Oracle: odds by NumPy, cuts by brute force, the claim of every pixel in a loop."""
    logits, target = many(seed)
    labels = multiclass_pseudo_labels(logits, target, patch_size=3, ties=ties)
    for n in range(2):
        z, truth = logits[n].numpy(), target[n].numpy()
        odds = np.stack(
            [z[c] - np.log(sum(np.exp(z[k]) for k in range(3) if k != c)) for c in range(3)]
        )
        thresholds = [
            best_thresholds(
                torch.tensor(1 / (1 + np.exp(-odds[c])))[None],
                torch.tensor(np.where(truth == 255, 255, truth == c))[None],
                patch_size=3,
                ties=ties,
            )[0]
            for c in range(3)
        ]
        for (row, col), window in patches_of(5, 6, 3):
            cuts = []
            for c in range(3):
                one = np.where(truth == 255, 255, truth == c)
                best = best_patch_cuts(odds[c], one, 3, epsilon=0, ties=ties, base=0.0)[row, col]
                assert (best is None) == torch.isnan(thresholds[c][row, col]).item()
                cuts.append(best)
            for i, j in np.ndindex(truth[window].shape):
                y, x = window[0].start + i, window[1].start + j
                if truth[y, x] == 255:
                    assert labels[n, y, x] == 255
                    continue
                claims = [c for c in range(3) if cuts[c].mask[i, j]]
                margins = {}
                for c in claims:
                    valid = truth[window] != 255
                    kept = odds[c][window][valid & cuts[c].mask]
                    rest = odds[c][window][valid & ~cuts[c].mask]
                    middle = (kept.min() + rest.max()) / 2 if rest.size else -np.inf
                    margins[c] = (odds[c, y, x] - middle, odds[c, y, x])
                expected = max(margins, key=margins.get) if margins else int(z[:, y, x].argmax())
                assert labels[n, y, x] == expected


def test_confident_logits_give_the_target_even_with_infinite_odds():
    _, target = random_pair(5, classes=4)
    logits = torch.full((2, 4, 7, 9), -torch.inf)
    logits.scatter_(1, torch.where(target == 255, 0, target).unsqueeze(1), 0.0)
    logits[(target == 255).unsqueeze(1).expand_as(logits)] = torch.nan
    assert torch.equal(multiclass_pseudo_labels(logits, target, patch_size=4), target)


def test_log_odds_by_definition_also_where_one_class_takes_all():
    logits = torch.tensor([0.0, -1.0, 3.0, 3.0]).view(1, 4, 1, 1)
    others = torch.stack([logits[0, [k for k in range(4) if k != c]] for c in range(4)])
    torch.testing.assert_close(log_odds(logits), logits - others.logsumexp(1).view(1, 4, 1, 1))
    # p = 1 - 1e-20: one minus the probability would be 0 in float32.
    odds = log_odds(torch.tensor([46.0, 0.0]).view(1, 2, 1, 1))
    torch.testing.assert_close(odds.flatten(), torch.tensor([46.0, -46.0]))
    assert log_odds(torch.tensor([0.0, -torch.inf]).view(1, 2, 1, 1)).isfinite().all()


def test_claims_of_infinite_thresholds():
    scores = torch.tensor([1.0, 2.0, -3.0]).view(1, 3, 1, 1)

    def winner(*thresholds):
        return claim(scores, torch.tensor(thresholds).view(1, 3, 1, 1)).item()

    inf = torch.inf
    assert winner(0.0, 1.5, -4.0) == 0  # equal margins of 1: the higher score of 0 and 2
    assert winner(0.5, 1.9, -9.0) == 2  # the largest margin, not the largest score
    assert winner(0.5, inf, -inf) == 2
    assert winner(-inf, 1.9, -inf) == 0  # both infinite: the higher score
    assert winner(inf, inf, inf) == 1  # nobody: argmax
    assert winner(torch.nan, torch.nan, torch.nan) == 1


LOGITS, CLASSES = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (LOGITS[:, :1], CLASSES, "logits: want float .* C >= 2, got .* use patch_pseudo_labels"),
        (LOGITS, CLASSES[:, 1:], r"target: want integers \(1, 2, 2\), got"),
        (LOGITS, CLASSES + 3, "target: label 3 in image 0; want 0 to 2 or 255"),
        (LOGITS + torch.nan, CLASSES, "logits: NaN, .* image 0"),
        (LOGITS - torch.inf, CLASSES, "logits: NaN, .* -inf in all classes"),
    ],
)
def test_errors_name_the_argument(logits, target, message):
    with pytest.raises(SegmendError, match=message):
        multiclass_pseudo_labels(logits, target, patch_size=2)
