"""Crops: pixels and labels stay together, padding is ignored, and all follows from the seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.engine.crops import (
    CACHE_LIMIT,
    CachedSet,
    CropSet,
    EpochSampler,
    augmented,
    cached,
    collate,
    random_crop,
)
from segmend.errors import SegmendError


def coded(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair whose image tells for each pixel which label belongs there."""
    target = torch.arange(height * width).view(height, width) % 200
    return (target / 255).expand(3, -1, -1).clone(), target


def still_together(image: torch.Tensor, target: torch.Tensor) -> bool:
    valid = target != 255
    return bool(torch.equal((image[0] * 255).round().long()[valid], target[valid]))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 15), st.integers(0, 99))
def test_random_crop(height, width, size, seed):
    image, target = coded(height, width)
    rng = torch.Generator().manual_seed(seed)
    crop, labels = random_crop(image, target, size=size, ignore_index=255, rng=rng)
    assert crop.shape == (3, size, size)
    assert labels.shape == (size, size)
    assert still_together(crop, labels)
    assert (labels != 255).sum() == min(height, size) * min(width, size)


def test_every_place_of_the_window_is_drawn():
    image, target = coded(6, 7)
    rng = torch.Generator().manual_seed(0)
    corners = {
        int(random_crop(image, target, size=4, ignore_index=255, rng=rng)[1][0, 0])
        for _ in range(300)
    }
    assert corners == {row * 7 + column for row in range(3) for column in range(4)}


def test_augmentation_draws_all_eight_orientations_and_moves_both(monkeypatch):
    monkeypatch.setattr("segmend.engine.crops.JITTER", 0.0)
    image, target = coded(5, 5)
    rng = torch.Generator().manual_seed(0)
    seen = Counter()
    for _ in range(200):
        moved, labels = augmented(image, target, rng=rng)
        assert still_together(moved, labels)
        seen[tuple(labels.flatten().tolist())] += 1
    assert len(seen) == 8
    assert min(seen.values()) > 5


def test_colour_changes_are_mild_and_stay_in_range():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(16, 16, dtype=torch.long)
    means = []
    for seed in range(30):
        moved, _ = augmented(image, target, rng=torch.Generator().manual_seed(seed))
        assert moved.min() >= 0
        assert moved.max() <= 1
        means.append(float(moved.mean() / image.mean()))
    assert 0.75 < min(means) < 0.9
    assert 1.1 < max(means) < 1.25


class Pairs:
    def __init__(self, sizes):
        self.sizes = sizes
        self.reads = 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.reads += 1
        image, target = coded(*self.sizes[index])
        return {"name": f"item {index}", "image": image, "target": target}


def test_crop_set_repeats_itself_and_changes_with_epoch_and_seed():
    def make(seed):
        return CropSet(Pairs([(20, 20)] * 3), crop=8, augment=True, ignore_index=255, seed=seed)

    crops = make(0)
    assert torch.equal(crops[1]["image"], make(0)[1]["image"])
    assert crops[4]["name"] == crops[1]["name"] == "item 1"
    assert not torch.equal(crops[4]["image"], crops[1]["image"])
    assert not torch.equal(crops[1]["image"], make(1)[1]["image"])


def test_sampler_shows_every_image_once_an_epoch_in_a_new_order():
    sampler = EpochSampler(10, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == list(range(10))
    assert sorted(second) == list(range(10, 20))
    assert [i - 10 for i in second] != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_collate_pads_to_the_largest():
    pairs = Pairs([(4, 7), (6, 5)])
    batch = collate([pairs[0], pairs[1]], ignore_index=255)
    assert batch["image"].shape == (2, 3, 6, 7)
    for number, (height, width) in enumerate(pairs.sizes):
        assert still_together(batch["image"][number], batch["target"][number])
        assert (batch["target"][number] != 255).sum() == height * width


def test_cache_reads_once_and_changes_nothing():
    pairs = Pairs([(4, 7), (6, 5)])
    kept = cached(pairs, cache="auto", progress=False)
    pairs.reads = 0
    for index in (0, 1, 0):
        item, fresh = kept[index], Pairs(pairs.sizes)[index]
        assert torch.equal(item["image"], fresh["image"])
        assert torch.equal(item["target"], fresh["target"])
        assert item["target"].dtype == torch.int64
    assert pairs.reads == 0
    assert kept._items[0]["image"].dtype == torch.uint8


def test_cache_keeps_what_8_bits_cannot_hold():
    image = torch.full((3, 2, 2), 1 / 65535)
    target = torch.tensor([[0, -1], [300, 1]])
    item = CachedSet([{"name": "a", "image": image, "target": target}], progress=False)[0]
    assert torch.equal(item["image"], image)
    assert torch.equal(item["target"], target)


def test_auto_leaves_a_large_set_on_disk():
    class Large(Pairs):
        def __len__(self):
            return CACHE_LIMIT // (4 * 4 * 7) + 1

        def __getitem__(self, index):
            return super().__getitem__(0)

    large = Large([(4, 7)])
    assert cached(large, cache="auto", progress=False) is large
    assert cached(large, cache=False, progress=False) is large


def test_a_pair_that_does_not_fit_is_named():
    item = {"name": "cells/a", "image": torch.zeros(3, 4, 4), "target": torch.zeros(4, 5).long()}
    with pytest.raises(SegmendError, match=r"cells/a: want .* got \(3, 4, 4\) and \(4, 5\)"):
        collate([item], ignore_index=255)
