"""Merged backgrounds against a table, the softmax, and the network they come from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segmend.context.merging import (
    MergedNetwork,
    merge_background,
    merge_background_probs,
    merged_copy,
)
from segmend.errors import SegmendError
from segmend.models.plain_unet import PlainUNet


@pytest.mark.parametrize(
    ("probs", "argmax", "total"),
    [
        ((0.5, 0.3, 0.2), 0, 0),
        ((0.3, 0.4, 0.3), 1, 0),  # the foreground is the strongest, but not more than the rest
        ((0.2, 0.6, 0.2), 1, 1),
        ((0.1, 0.3, 0.6), 0, 0),
    ],
)
def test_table(probs: tuple[float, ...], argmax: int, total: int) -> None:
    logits = torch.tensor([probs]).log()
    for merge, expected in (("argmax", argmax), ("sum", total)):
        one = merge_background(logits, num_context=2, num_classes=2, merge=merge)  # type: ignore[arg-type]
        two = merge_background_probs(
            torch.tensor([probs]),
            num_context=2,
            num_classes=2,
            merge=merge,  # type: ignore[arg-type]
        )
        assert int(one.argmax(1)) == int(two.argmax(1)) == expected


@settings(max_examples=25)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 9999))
def test_both_merges_by_definition(classes: int, contexts: int, axes: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes + contexts - 1, *[3] * axes, generator=draw)
    counts = {"num_context": contexts, "num_classes": classes}
    probs = logits.softmax(1)
    summed = merge_background(logits, merge="sum", **counts).softmax(1)  # type: ignore[arg-type]
    torch.testing.assert_close(summed[:, 1:], probs[:, 1:classes])
    direct = merge_background_probs(probs, merge="sum", **counts)  # type: ignore[arg-type]
    torch.testing.assert_close(summed, direct)
    labels = logits.argmax(1)
    expected = torch.where(labels >= classes, 0, labels)
    assert torch.equal(merge_background(logits, **counts).argmax(1), expected)  # type: ignore[arg-type]
    strongest = merge_background_probs(probs, **counts)  # type: ignore[arg-type]
    assert torch.equal(strongest.argmax(1), expected)


@pytest.mark.parametrize("merge", ["argmax", "sum"])
def test_an_exported_network_predicts_the_same(merge: str) -> None:
    network = PlainUNet(1, 4, widths=(3, 4), deep_supervision=True)
    images = torch.randn(2, 1, 12, 9)
    exported = merged_copy(network, num_context=3, merge=merge)  # type: ignore[arg-type]
    assert not exported.training
    assert network.training
    network.eval()
    expected = merge_background(network(images), num_context=3, num_classes=2, merge=merge)  # type: ignore[arg-type]
    assert torch.equal(exported(images), expected)
    single = merged_copy(network, num_context=3, merge="sum", single_logit=True)(images)
    torch.testing.assert_close(single.sigmoid()[:, 0], network(images).softmax(1)[:, 1])
    with torch.no_grad():
        network.heads[0].weight.zero_()  # type: ignore[union-attr]
    assert torch.equal(exported(images), expected)


def test_an_exported_network_is_ordinary() -> None:
    network = merged_copy(PlainUNet(1, 3, widths=(3, 4)), num_context=2)
    images = torch.randn(1, 1, 8, 8)
    expected = network(images)
    other = merged_copy(PlainUNet(1, 3, widths=(3, 4)), num_context=2)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), expected)
    graph = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(graph(images), expected)


def test_levels_are_merged_each() -> None:
    network = MergedNetwork(PlainUNet(1, 3, widths=(3, 4, 5), deep_supervision=True), num_context=2)
    assert [z.shape[1] for z in network(torch.randn(1, 1, 12, 12))] == [2, 2]


def test_input_that_cannot_be() -> None:
    with pytest.raises(SegmendError, match=r"float \(N, 4"):
        merge_background(torch.zeros(1, 3, 2), num_context=3, num_classes=2)
    with pytest.raises(SegmendError, match="merge"):
        merge_background(torch.zeros(1, 3, 2), num_context=2, num_classes=2, merge="mean")  # type: ignore[arg-type]
    with pytest.raises(SegmendError, match="single_logit"):
        MergedNetwork(nn.Identity(), num_context=2, num_classes=3, single_logit=True)
