"""Maps of class tokens against einsum-free loops over tokens in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.errors import SegmendError
from segmend.tags.mctformer import (
    class_attention,
    fuse_cams,
    mctformer_cams,
    patch_attention,
    ranking_pool,
    spread_cams,
)


@st.composite
def cases(draw):
    """(attention (L, N, heads, T, T), patch logits (N, C, h, w))."""
    batch, classes, heads = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    tokens = classes + height * width
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    attention = torch.randn(4, batch, heads, tokens, tokens, generator=generator).double()
    logits = torch.randn(batch, classes, height, width, generator=generator).double()
    return attention.softmax(-1), logits


def by_loops(attention, logits, *, layers, mean, root):
    """Oracle: the whole chain token by token, in plain NumPy."""
    attention, logits = attention.numpy(), logits.numpy()
    batch, classes, height, width = logits.shape
    depth, _, heads = attention.shape[:3]
    cams = np.zeros((batch, classes, height * width))
    for n, c in np.ndindex(batch, classes):
        fused = np.zeros(height * width)
        for p in range(height * width):
            looks = sum(
                attention[layer, n, head, c, classes + p] / heads
                for layer in range(depth - layers, depth)
                for head in range(heads)
            )
            looks /= layers if mean else 1
            fused[p] = looks * max(0, logits[n, c, p // width, p % width])
            fused[p] = fused[p] ** 0.5 if root else fused[p]
        for p, q in np.ndindex(height * width, height * width):
            weight = sum(
                attention[layer, n, head, classes + p, classes + q] / heads
                for layer in range(depth)
                for head in range(heads)
            )
            cams[n, c, p] += weight / (depth if mean else 1) * fused[q]
    return torch.from_numpy(cams.reshape(logits.shape))


@given(cases(), st.integers(1, 4), st.sampled_from([("sum", "product"), ("mean", "root")]))
def test_agrees_with_loops(case, layers, variant):
    reduction, fusion = variant
    found = mctformer_cams(*case, layers=layers, reduction=reduction, fusion=fusion)
    wanted = by_loops(*case, layers=layers, mean=reduction == "mean", root=fusion == "root")
    torch.testing.assert_close(found, wanted)


@given(cases())
def test_attention_is_shared_out_between_classes_and_patches(case):
    attention, logits = case
    grid = logits.shape[2:]
    classes = logits.shape[1]
    patches = patch_attention(attention, grid, reduction="mean")
    rest = attention[..., classes:, :classes].mean((0, 2)).sum(-1)
    torch.testing.assert_close(patches.sum(2) + rest, torch.ones_like(rest))
    looks = class_attention(attention, grid, layers=1)
    torch.testing.assert_close(looks.flatten(2), attention[-1].mean(1)[:, :classes, classes:])


def test_rows_take_from_columns():
    patches = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])  # patch 0 looks at patch 1
    cams = torch.tensor([[[[0.0, 5.0]]]])
    assert spread_cams(cams, patches).flatten().tolist() == [5.0, 0.0]


@given(cases())
def test_ranking_pool_lies_between_mean_and_maximum(case):
    logits = case[1]
    torch.testing.assert_close(ranking_pool(logits, decay=1), logits.mean((2, 3)))
    torch.testing.assert_close(ranking_pool(logits, decay=1e-12), logits.amax((2, 3)))
    for n, c in np.ndindex(logits.shape[:2]):
        ranked = np.sort(logits[n, c].numpy().ravel())[::-1]
        wanted = np.average(ranked, weights=0.9 ** np.arange(ranked.size))
        assert ranking_pool(logits, decay=0.9)[n, c].item() == pytest.approx(wanted)


ATTENTION, LOGITS = torch.rand(2, 1, 1, 6, 6), torch.rand(1, 2, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_attention(ATTENTION, (2, 3)), "attention: want .*at least one class token"),
        (lambda: class_attention(ATTENTION, (2, 2), layers=3), "layers: want 1 to 2, got 3"),
        (lambda: class_attention(ATTENTION, (2, 2), layers=1, reduction="no"), "reduction: want"),
        (lambda: fuse_cams(LOGITS, LOGITS[:, :1]), "of one shape"),
        (lambda: fuse_cams(LOGITS, LOGITS, fusion="no"), "fusion: want one of"),
        (lambda: spread_cams(LOGITS, torch.zeros(1, 3, 3)), "spread_cams: want"),
        (lambda: ranking_pool(LOGITS, decay=0), r"decay in \(0, 1\]"),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(SegmendError, match=message):
        call()
