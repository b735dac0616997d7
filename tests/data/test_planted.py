"""Planted errors: known, growing with their strength, and nothing where nothing was planted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmend.data.planted import KINDS, Planted, plant
from segmend.errors import SegmendError
from segmend.metrics import class_score, iou, region_counts

ERRORS = [kind for kind in KINDS if kind not in ("perfect", "noise")]


def masks(planted: Planted) -> list[Tensor]:
    return [(p[0] > 0.5).long() if len(p) == 1 else p.argmax(0) for p in planted.probs]


def score(planted: Planted) -> float:
    num_classes = max(2, len(planted.probs[0]))
    found, truth = torch.stack(masks(planted)), torch.stack(planted.targets)
    return float(class_score(iou(region_counts(found, truth, num_classes=num_classes).sum(0))))


def small(kind: object, *, strength: float = 0.5, num_classes: int = 5, seed: int = 3) -> Planted:
    return plant(
        kind,  # type: ignore[arg-type]
        count=4, size=(64, 64), num_classes=num_classes, seed=seed, strength=strength,
    )  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 5])
def test_perfect_is_the_truth(num_classes: int) -> None:
    planted = small("perfect", num_classes=num_classes)
    for found, truth in zip(masks(planted), planted.targets, strict=True):
        assert torch.equal(found, truth)


@pytest.mark.parametrize("kind", [*ERRORS, "noise"])
def test_an_error_costs_more_the_stronger_it_is(kind: str) -> None:
    levels = [score(small(kind, strength=s)) for s in (0.0, 0.3, 0.6, 1.0)]
    assert levels[0] == 1.0
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < 0.95


@pytest.mark.parametrize("num_classes", [2, 4])
def test_shapes_and_ranges(num_classes: int) -> None:
    planted = small({"noise": 0.3, "leak": 0.8}, num_classes=num_classes)
    channels = 1 if num_classes == 2 else num_classes
    for probs, target, image in zip(planted.probs, planted.targets, planted.images, strict=True):
        assert probs.shape == (channels, 64, 64)
        assert probs.dtype == torch.float32
        assert target.dtype == torch.int64
        assert target.max() < num_classes
        assert image.shape == (3, 64, 64)
        for values in (probs, image):
            assert values.min() >= 0
            assert values.max() <= 1
        if channels > 1:
            assert torch.allclose(probs.sum(0), torch.ones(64, 64), atol=1e-5)


def test_a_seed_repeats_and_another_differs() -> None:
    one, same, other = (small({"leak": 0.5, "noise": 0.5}, seed=s) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.probs, same.probs, strict=True))
    assert not torch.equal(one.probs[0], other.probs[0])


def test_candidates_are_the_classes_of_the_truth() -> None:
    planted = small("out-of-candidate", strength=1.0)
    assert planted.candidates is not None
    called_wrongly = 0
    for candidates, truth, found in zip(
        planted.candidates, planted.targets, masks(planted), strict=True
    ):
        assert candidates[0]
        assert set(candidates.nonzero().flatten().tolist()) == {0, *truth.unique().tolist()}
        called_wrongly += int((~candidates[found]).sum())
    assert called_wrongly > 0
    assert small("perfect", num_classes=2).candidates is None


def test_ruling_out_the_absent_classes_mends_out_of_candidate_errors() -> None:
    planted = small("out-of-candidate", strength=1.0)
    assert planted.candidates is not None
    for probs, allowed, truth in zip(
        planted.probs, planted.candidates, planted.targets, strict=True
    ):
        mended = torch.where(allowed[:, None, None], probs, -1.0).argmax(0)
        assert (mended != truth).float().mean() < 0.01


def test_patch_bias_is_the_same_offset_in_all_images() -> None:
    clean, biased = (small("patch-bias", strength=s, num_classes=2) for s in (0.0, 0.4))
    shifts = [
        b.double().logit() - a.double().logit()
        for a, b in zip(clean.probs, biased.probs, strict=True)
    ]
    for shift in shifts[1:]:
        assert torch.allclose(shift, shifts[0], atol=1e-2)
    assert shifts[0].std() > 0.5


def test_one_threshold_mends_a_miscalibration_and_none_an_erosion() -> None:
    best = {}
    for kind in ("miscalibration", "erosion"):
        planted = small(kind, strength=0.4, num_classes=2)
        logits = torch.stack(planted.probs)[:, 0].double().logit()
        truth = torch.stack(planted.targets) == 1
        best[kind] = max(
            float((m & truth).sum() / (m | truth).sum())
            for m in (logits > cut for cut in torch.linspace(-6, 6, 49))
        )
    assert best["miscalibration"] == 1.0
    assert best["erosion"] < 0.9


def test_missed_objects_are_missed_whole_and_leaks_stay_in_the_background() -> None:
    missed = small("missed", strength=1.0, num_classes=2)
    for found, truth in zip(masks(missed), missed.targets, strict=True):
        assert not (found & (1 - truth)).any()
    leak = small("leak", strength=1.0, num_classes=2)
    clean = small("perfect", num_classes=2)
    for found, truth, image, before in zip(
        masks(leak), leak.targets, leak.images, clean.images, strict=True
    ):
        assert not ((truth == 1) & (found == 0)).any()
        painted = (image != before).any(0)
        assert not (painted & (truth == 1)).any()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("blur", {}, "kind"),
        ({}, {}, "kind"),
        ("leak", {"strength": 1.5}, "strength of leak"),
        ("leak", {"strength": float("nan")}, "strength of leak"),
        ("out-of-candidate", {"num_classes": 2}, "num_classes"),
        ("leak", {"num_classes": 1}, "num_classes"),
    ],
)
def test_what_cannot_be_planted(kind: object, options: dict[str, float], message: str) -> None:
    with pytest.raises(SegmendError, match=message):
        plant(kind, **options)  # type: ignore[arg-type]
