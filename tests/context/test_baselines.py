"""Context labels that nobody learns: what each says, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from segmend.context.baselines import (
    ContextSource,
    DistanceBands,
    MapContext,
    PlainContext,
    RandomContext,
    build_baseline,
)
from segmend.context.clusters import KMeansContext, kmeans
from segmend.context.distance import distance_map
from segmend.errors import SegmendError


def square(size: int = 20) -> torch.Tensor:
    target = torch.zeros(1, size, size, dtype=torch.long)
    target[0, 9:11, 9:11] = 1
    return target


@pytest.mark.parametrize("name", ["plain", "dilate", "bands", "kmeans", "maps", "random"])
@pytest.mark.parametrize("axes", [2, 3])
def test_all_give_probabilities(name: str, axes: int) -> None:
    count = {"plain": 1, "dilate": 2}.get(name, 3)
    source = build_baseline(name, num_context=count, width=2.0)
    assert isinstance(source, ContextSource)
    images = torch.rand(2, 1, *[9] * axes)
    target = torch.randint(2, (2, *[9] * axes))
    if isinstance(source, KMeansContext):
        source.fit([{"image": images, "target": target}])
    found = source.contexts(images, target, maps=torch.randint(3, target.shape))
    assert found.shape == (2, count, *[9] * axes)
    assert ((found == 0) | (found == 1)).all()
    assert (found.sum(1) == 1).all()


def test_bands_lie_around_the_foreground() -> None:
    target = square()
    source = DistanceBands([2.0, 5.0])
    labels = source.contexts(torch.zeros(1, 1, 20, 20), target).argmax(1)
    distance = distance_map(target)
    outside = target == 0
    assert (labels[outside & (distance <= 2)] == 1).all()
    assert (labels[outside & (distance > 2) & (distance <= 5)] == 2).all()
    assert (labels[distance > 5] == 0).all()
    given = source.contexts(torch.zeros(1, 1, 20, 20), target, distance=distance + 3).argmax(1)
    assert (given[outside & (distance <= 2)] == 2).all()


def test_bands_without_foreground_are_far() -> None:
    empty = torch.zeros(1, 8, 8, dtype=torch.long)
    assert (DistanceBands([3.0]).contexts(torch.zeros(1, 1, 8, 8), empty)[:, 0] == 1).all()


def test_kmeans_finds_what_is_there_and_orders_it() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])
    points = torch.cat(
        [
            c + 0.3 * torch.randn(n, 2, generator=draw)
            for c, n in zip(centres, (50, 90, 20), strict=True)
        ]
    )
    found = kmeans(points, 3, draw)
    torch.testing.assert_close(found, centres[[1, 0, 2]], rtol=0, atol=0.3)


def test_kmeans_reads_the_background_alone_and_comes_back() -> None:
    images = torch.zeros(1, 1, 16, 16)
    images[..., 8:] = 1.0
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    images[..., 3, 3], target[..., 3, 3] = 50.0, 1
    source = KMeansContext(2, features=lambda x: x)
    with pytest.raises(SegmendError, match="fit"):
        source.contexts(images, target)
    source.fit([{"image": images, "target": target}])
    labels = source.contexts(images, target).argmax(1)[0]
    assert (labels[:, 8:] == labels[0, 8]).all()
    assert labels[0, 0] != labels[0, 8]
    other = KMeansContext(2, features=lambda x: x)
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.contexts(images, target).argmax(1)[0], labels)
    with pytest.raises(SegmendError, match="background pixels"):
        source.fit([{"image": images, "target": torch.ones_like(target)}])


def test_random_labels_go_on_from_a_state() -> None:
    images, target = torch.zeros(1, 1, 20, 20), square()
    source = RandomContext(3, cell=4, seed=1)
    source.contexts(images, target)
    state = source.state_dict()
    expected = source.contexts(images, target)
    assert not torch.equal(source.contexts(images, target), expected)
    source.load_state_dict(state)
    assert torch.equal(source.contexts(images, target), expected)
    assert (expected.argmax(1)[0, :4, :4] == expected.argmax(1)[0, 0, 0]).all()


def test_maps_are_taken_as_they_are() -> None:
    target = square()
    maps = torch.randint(3, target.shape)
    maps[target == 1] = 99  # what lies under the foreground does not matter
    found = MapContext(3).contexts(torch.zeros(1, 1, 20, 20), target, maps=maps).argmax(1)
    assert torch.equal(found[target == 0], maps[target == 0])
    with pytest.raises(SegmendError, match="every batch"):
        MapContext(3).contexts(torch.zeros(1, 1, 20, 20), target)
    with pytest.raises(SegmendError, match="0 to 1"):
        MapContext(2).contexts(torch.zeros(1, 1, 20, 20), target, maps=maps)


def test_input_that_cannot_be() -> None:
    with pytest.raises(SegmendError, match="want one of"):
        build_baseline("magic", num_context=2)
    with pytest.raises(SegmendError, match="K = 2"):
        build_baseline("dilate", num_context=3)
    with pytest.raises(SegmendError, match="at least 2"):
        build_baseline("kmeans", num_context=1)
    with pytest.raises(SegmendError, match="edges"):
        DistanceBands([3.0, 2.0])
    assert PlainContext().num_context == 1
