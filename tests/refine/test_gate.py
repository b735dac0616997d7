"""The gate: exact counts, best strength and threshold, and closed where nothing helps."""

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend import SegmendError
from segmend.refine.gate import Gate, choose_gate, guided
from segmend.refine.gate_scores import (
    SHIFTS,
    Scores,
    binary_scores,
    multiclass_scores,
    saliency_scores,
)
from segmend.refine.guided import GUIDES


@given(seed=st.integers(0, 10_000))
def test_binary_scores_equal_counting_at_every_threshold(seed):
    generator = torch.Generator().manual_seed(seed)
    # Scores on the thresholds themselves too: there `>` and `>=` differ.
    near = SHIFTS[torch.randint(len(SHIFTS), (1, 6, 5), generator=generator)]
    logits = torch.where(
        torch.rand(1, 6, 5, generator=generator) < 0.5,
        near,
        3 * torch.randn(1, 6, 5, generator=generator),
    )
    labels = torch.tensor([0, 1, 255], dtype=torch.uint8)[
        torch.randint(3, (6, 5), generator=generator)
    ]
    parts = binary_scores([logits], [labels]).parts[0, :, 0]
    for shift, (inter, union) in zip(SHIFTS, parts.tolist(), strict=True):
        found, true, valid = logits[0] > shift, labels == 1, labels != 255
        assert inter == int((found & true).sum())
        assert union == int(((found | true) & valid).sum())


def test_multiclass_scores_equal_counting():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, 7, generator=generator)
    labels = torch.randint(4, (9, 7), generator=generator).to(torch.uint8)
    labels[0] = 255
    parts = multiclass_scores([logits], [labels]).parts[0, 0]
    guess = logits.argmax(0)
    for c in range(4):
        valid = labels != 255
        inter = int(((guess == c) & (labels == c)).sum())
        union = int((((guess == c) | (labels == c)) & valid).sum())
        assert parts[c].tolist() == [inter, union]


def test_saliency_score_is_minus_mae():
    logits = torch.tensor([[[0.0, 9.0, -9.0]]])
    labels = torch.tensor([[1, 1, 255]], dtype=torch.uint8)
    expected = -(0.5 + (1 - torch.tensor(9.0).sigmoid())) / 2
    pooled = saliency_scores([logits], [labels]).pooled()
    torch.testing.assert_close(pooled, expected.double().view(1))


def test_weights_of_a_resample_equal_repeating_its_images():
    parts = torch.randint(1, 50, (3, 2, 2, 2))
    twice = torch.cat([parts[:1], parts[:1], parts[2:]])
    weighted = Scores(parts).pooled(torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(weighted[0], Scores(twice).pooled())


def noisy(count, generator, *, bias):
    labels = (torch.rand(count, 24, 24, generator=generator) < 0.4).to(torch.uint8)
    truth = labels.float() * 4 - 2
    base = truth + 2 * torch.randn(count, 24, 24, generator=generator)
    base[:, :, :12] += bias
    return labels, base.unsqueeze(1)


def test_gate_opens_for_a_true_correction():
    generator = torch.Generator().manual_seed(0)
    labels, base = noisy(12, generator, bias=3.0)
    mended = base.clone()
    mended[..., :12] -= 3.0
    gate = choose_gate(list(base), list(mended), list(labels))
    assert gate.strength == gate.best_strength == 1.0
    assert gate.best_score > gate.base_score + 0.05
    assert gate.confidence > 0.99


def test_gate_stays_closed_for_noise_and_keeps_the_base_threshold():
    generator = torch.Generator().manual_seed(1)
    labels, base = noisy(12, generator, bias=0.0)
    spoilt = base + 2 * torch.randn(base.shape, generator=generator)
    gate = choose_gate(list(base), list(spoilt), list(labels))
    assert not gate.is_open
    assert gate.threshold == gate.base_threshold
    assert gate.opened().threshold == gate.best_threshold


def test_confidence_zero_always_opens():
    generator = torch.Generator().manual_seed(1)
    labels, base = noisy(4, generator, bias=0.0)
    gate = choose_gate(list(base), list(-base), list(labels), confidence=0.0)
    assert gate.strength == 1.0


def test_lists_of_different_length_are_named():
    with pytest.raises(SegmendError, match="got 1, 0 and 1"):
        choose_gate([torch.zeros(1, 2, 2)], [], [torch.zeros(2, 2, dtype=torch.uint8)])


def test_one_large_image_alone_does_not_open_the_gate():
    """Nine small images lose a little, one huge image gains a lot: pooled up, average down."""
    generator = torch.Generator().manual_seed(0)
    sizes = [16] * 9 + [160]
    labels = [(torch.rand(s, s, generator=generator) < 0.5).to(torch.uint8) for s in sizes]
    clean = [label[None].float() * 4 - 2 for label in labels]
    wrong = [torch.where(torch.rand(z.shape, generator=generator) < 0.2, -z, z) for z in clean]
    base, refined = [*clean[:9], wrong[9]], [*wrong[:9], clean[9]]
    gate = choose_gate(base, refined, labels)
    assert gate.best_score > gate.base_score + 0.05
    assert not gate.is_open


def test_per_image_scores_equal_single_images():
    parts = torch.randint(1, 50, (5, 1, 3, 2))
    alone = torch.stack([Scores(parts[i : i + 1]).pooled()[0] for i in range(5)])
    torch.testing.assert_close(Scores(parts).per_image(), alone)


def disks(count, *, sharp):
    """Blurred scores of a disk each, its labels, and an image that shows it or only noise."""
    generator = torch.Generator().manual_seed(0)
    rows, cols = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    logits, labels, images = [], [], []
    for _ in range(count):
        centre = 12 + 24 * torch.rand(2, generator=generator)
        truth = ((rows - centre[0]) ** 2 + (cols - centre[1]) ** 2) < 80
        soft = torch.nn.functional.avg_pool2d(
            truth[None].float() + 0.4 * torch.randn(1, 48, 48, generator=generator), 7, 1, 3
        )
        logits.append(6 * soft - 2)
        labels.append(truth.to(torch.uint8))
        noise = torch.rand(3, 48, 48, generator=generator)
        shown = 0.8 * truth + 0.1 * noise if sharp else noise
        images.append((255 * shown).to(torch.uint8))
    return logits, labels, images


def test_a_guide_is_taken_where_the_image_shows_the_outline():
    base, labels, images = disks(8, sharp=True)
    gate = choose_gate(base, base, labels, images=images)
    assert gate.is_open
    assert gate.guide is not None
    assert gate.best_score > gate.base_score + 0.05
    assert gate.closed().guide is None
    assert gate.closed().opened() == gate


def test_no_guide_is_taken_where_the_image_is_noise():
    base, labels, images = disks(8, sharp=False)
    gate = choose_gate(base, base, labels, images=images)
    assert gate.guide is None


def test_a_gate_comes_back_from_json():
    base, labels, images = disks(4, sharp=True)
    gate = choose_gate(base, base, labels, images=images)
    assert Gate.from_plain(json.loads(json.dumps(asdict(gate)))) == gate


def test_a_guide_that_closes_gaps_is_not_taken():
    """The image shows both bars as one: its filter fills the holes, and the gap between them."""
    truth = torch.zeros(64, 64, dtype=torch.uint8)
    truth[8:56, 8:31], truth[8:56, 33:56] = 1, 1
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 8:56, 8:56] = 255
    scores = torch.where(truth == 1, 3.0, -3.0)[None].clone()
    for left in (15, 40):
        scores[:, 28:36, left : left + 8] = -3.0
    base = [scores] * 6
    gate = choose_gate(base, base, [truth] * 6, images=[image] * 6)
    assert gate.guide is None
    # The same filter would have gained a lot of area.
    filtered = [guided(z, image, GUIDES[2]) for z in base]
    assert binary_scores(filtered, [truth] * 6).pooled().max() > gate.base_score + 0.01
