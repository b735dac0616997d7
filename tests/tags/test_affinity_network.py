"""Affinity networks: they learn where classes end, and walks stay on one side of it."""

import pytest
import torch

from segmend.tags.affinity_jobs import AffinitySpec, build_affinity, small_labels
from segmend.tags.affinity_network import Walk


def halves():
    """Two halves of different colour, and the label of each: 1 and 0."""
    images = torch.zeros(1, 3, 64, 64)
    images[:, 0, :, :32] = 1
    images[:, 2, :, 32:] = 1
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, :, :32] = 1
    return images, labels


@pytest.mark.parametrize("method", ["affinitynet", "irn"])
def test_scores_spread_over_their_own_half_after_learning(method):
    """A seed in one corner fills its half; before learning it leaks into the other one. Files of
    maps are smaller than their images: what comes back covers the image all the same."""
    torch.manual_seed(0)
    images, labels = halves()
    model = build_affinity(AffinitySpec(method, "squeezenet1_0", 8, 5))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    small = small_labels(labels, [64 // model.map_stride] * 2)
    losses = []
    for _ in range(30):
        loss = model.loss(images, small)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    seed = torch.zeros(1, 1, 64, 64)
    seed[..., 24:40, 4:12] = 1
    model.eval()
    for step in (1, 2, 4):
        with torch.no_grad():
            spread = model.spread(seed[..., ::step, ::step], images, Walk(beta=8, steps=64))[0, 0]
        assert spread.shape == (64 // step, 64 // step)
        rows = slice(16 // step, 48 // step)
        own = spread[rows, 14 // step : 26 // step].mean()
        other = spread[rows, 40 // step : 60 // step].mean()
        assert own > 5 * other


@pytest.mark.parametrize("method", ["affinitynet", "irn"])
@pytest.mark.parametrize("size", [(8, 8), (37, 50)])
def test_any_size_keeps_its_size_and_stays_in_range(method, size):
    model = build_affinity(AffinitySpec(method, "squeezenet1_0", 8, 5)).eval()
    with torch.no_grad():
        found = model.spread(torch.rand(1, 2, *size), torch.rand(1, 3, *size), Walk(8, 16))
    assert found.shape == (1, 2, *size)
    assert found.min() >= 0
    assert found.max() <= 1


def test_irn_leaves_its_backbone_alone():
    model = build_affinity(AffinitySpec("irn", "squeezenet1_0", 8, 5))
    images, labels = halves()
    model.loss(images, small_labels(labels, [16, 16])).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.edge_taps.parameters())


def test_a_cell_takes_the_label_of_most_of_its_pixels():
    labels = torch.tensor([[[1, 1, 2, 255], [1, 2, 255, 255]]])
    assert small_labels(labels, [1, 2]).tolist() == [[[1, 255]]]
