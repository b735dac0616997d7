"""The merge rule against the original's masks (golden), SciPy's dilation and a truth table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segmend import SegmendError
from segmend.refine.merge import merge, published_merge
from segmend.refine.network import RefinedLogits

GOLDEN = Path(__file__).parents[1] / "golden" / "prn_predict_combine.npz"
QUARTERS = st.integers(-4, 4).map(lambda quarter: quarter / 4)


def logit(probs):
    return torch.from_numpy(probs).double().logit()[:, None]


def test_published_rule_gives_the_original_masks():
    file = np.load(GOLDEN)
    refined = RefinedLogits(logit(file["pred_global"]), logit(file["pred_local"]))
    masks = (merge(refined) > 0)[:, 0].numpy()
    assert np.array_equal(masks, file["pred"].astype(bool))
    assert (masks != (file["pred_global"] > 0.5)).any()  # the local output has a say here


@given(
    maps=hnp.arrays(
        np.float32, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5)), elements=QUARTERS
    ),
    cut=QUARTERS,
)
def test_published_rule_holds_at_every_cut(maps, cut):
    a, b = maps > cut
    expected = a | ndimage.binary_dilation(a & b, np.ones((3, 3)))
    both = torch.from_numpy(maps)[:, None, None]
    assert np.array_equal((published_merge(*both) > cut)[0, 0].numpy(), expected)


# A pixel that both call foreground spreads to its neighbours; one that a single output calls
# foreground does not, and counts only if that output is the global one.
@pytest.mark.parametrize(
    ("global_", "local", "expected"),
    [
        ([1, -1, -1], [1, -1, -1], [True, True, False]),
        ([1, -1, -1], [-1, 1, 1], [True, False, False]),
        ([-1, -1, -1], [1, 1, 1], [False, False, False]),
        ([1, -1, 1], [-1, -1, 1], [True, True, True]),
    ],
)
def test_truth_table(global_, local, expected):
    row = [
        torch.tensor(values, dtype=torch.float32)[None, None, None] for values in (global_, local)
    ]
    assert (merge(RefinedLogits(*row)) > 0).flatten().tolist() == expected


def test_other_rules():
    a, b = torch.randn(2, 1, 1, 4, 4).unbind(0)
    refined = RefinedLogits(a, b)
    assert torch.equal(merge(refined, rule="global"), a)
    assert torch.equal(merge(refined, rule="local"), b)
    torch.testing.assert_close(merge(refined, rule="mean"), 0.5 * a + 0.5 * b)


@pytest.mark.parametrize("rule", ["published", "mean", "global"])
def test_without_local_output_the_global_one_comes_back(rule):
    only = RefinedLogits(torch.randn(1, 1, 3, 3), None)
    assert merge(only, rule=rule) is only.global_


@pytest.mark.parametrize(
    ("refined", "rule", "message"),
    [
        (RefinedLogits(torch.zeros(1, 1, 2, 2), None), "local", "'local' needs a local output"),
        (
            RefinedLogits(torch.zeros(1, 1, 2, 2), None),
            "union",
            "rule: want one of published, mean",
        ),
        (RefinedLogits(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3)), "mean", "one shape"),
    ],
)
def test_what_cannot_be_merged(refined, rule, message):
    with pytest.raises(SegmendError, match=message):
        merge(refined, rule=rule)
