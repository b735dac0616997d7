"""Out of bag: a choice among worthless ways must not look like a gain, a true gain must."""

import torch

from segmend.refine.gate_evidence import middle_of_best, out_of_bag_confidence, resamples
from segmend.refine.gate_scores import Scores


def scores(intersections, union=100.0):
    """Scores (N, 1, 1, 2) with one shift of the threshold and one class."""
    inter = torch.as_tensor(intersections, dtype=torch.float64)
    return Scores(torch.stack([inter, torch.full_like(inter, union)], -1)[:, None, None])


def judged(base, choices, seed=0):
    return out_of_bag_confidence(base, choices, num_resamples=300, seed=seed)


def test_choosing_among_worthless_ways_seldom_looks_like_a_gain():
    """Fifteen ways that differ from the base by chance alone, on twenty images, twenty times."""
    opened = naive = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        centre = 60 + 10 * torch.randn(20, generator=generator)
        ways = [centre + 4 * torch.randn(20, generator=generator) for _ in range(15)]
        opened += judged(scores(centre), [scores(way) for way in ways], seed=seed) >= 0.9
        best = max(ways, key=lambda way: float(way.mean()))
        gains = resamples(20, 300, seed=seed) @ (best - centre).double()
        naive += float((gains > 0).double().mean()) >= 0.9
    assert naive > 10  # what judging the winner on the same images would do
    assert opened <= 4


def test_a_true_gain_is_believed():
    generator = torch.Generator().manual_seed(0)
    centre = 60 + 10 * torch.randn(20, generator=generator)
    better = centre + 3 + 2 * torch.randn(20, generator=generator)
    assert judged(scores(centre), [scores(centre - 1), scores(better)]) > 0.99


def test_the_base_against_itself_is_no_gain():
    base = scores([50.0, 60.0, 70.0])
    assert judged(base, [base]) == 0


def test_one_image_is_never_left_out():
    assert judged(scores([50.0]), [scores([90.0])]) == 0


def test_a_threshold_that_suits_one_image_only_is_no_gain():
    """Every image has a shift of its own at which it gains; none of them helps the others."""
    count = 12
    parts = torch.full((count, count, 1, 2), 100.0, dtype=torch.float64)
    parts[..., 0] = 50
    parts[torch.arange(count), torch.arange(count), 0, 0] = 80
    base = scores([50.0] * count)
    assert judged(base, [Scores(parts)]) < 0.5


def test_of_equal_shifts_the_middle_one_is_taken():
    assert middle_of_best(torch.tensor([0.1, 0.5, 0.5, 0.5, 0.2])) == 2
