"""What happens to a batch on its way into a network that is fitted."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.refine.cross_validation import split_folds
from segmend.refine.fitting import recoloured


@given(amount=st.floats(0.05, 0.5), seed=st.integers(0, 1000))
def test_recoloured_images_keep_their_contrast_but_for_one_factor(amount, seed):
    """Away from black and white each channel is an affine map of what it was."""
    ramp = torch.linspace(0.45, 0.55, 6).expand(3, 3, 2, 6)
    found = recoloured(ramp, amount, torch.Generator().manual_seed(seed))
    assert found.min() >= 0
    assert found.max() <= 1
    inside = (found > 0.001) & (found < 0.999)
    steps = found.diff(dim=-1) / ramp.diff(dim=-1)
    for image, kept in zip(steps, (inside[..., 1:] & inside[..., :-1]), strict=True):
        if kept.any():
            factor = image[kept]
            assert (factor - factor.mean()).abs().max() < 1e-3
            assert 1 - amount - 1e-3 <= float(factor.mean()) <= 1 + amount + 1e-3


def test_no_recolouring_leaves_images_alone():
    images = torch.rand(2, 3, 4, 4)
    assert recoloured(images, 0.0, torch.Generator()) is images


def test_a_group_is_held_out_whole():
    groups = ["a", "b", "a", "c", "b", "d", "e"]
    folds = split_folds(groups, 3, seed=0)
    assert sorted(i for fold in folds for i in fold) == list(range(7))
    assert len(folds) == 3
    for fold in folds:
        assert {groups[i] for i in fold}.isdisjoint(groups[i] for i in range(7) if i not in fold)


def test_one_group_cannot_be_divided():
    assert split_folds(["a", "a", "a"], 3, seed=0) == [set()]
