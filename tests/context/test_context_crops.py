"""Crops for context learning: repeatable, centred when asked, image and labels moved together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmend.context.crops import FAR, ContextCrops, PreparedSet, augmented, cropped
from segmend.context.distance import distance_map
from segmend.errors import SegmendError


def item(size=(20, 18), *, at=(3, 4), name="a"):
    """One square of foreground; pixels repeat the labels, so that they can be compared."""
    labels = torch.zeros(size, dtype=torch.int64)
    labels[tuple(slice(a, a + 3) for a in at)] = 1
    return {"name": name, "image": labels[None].float(), "target": labels}


def prepared(items, **options):
    settings = {"distance": True, "keep": True, "num_classes": 2, "ignore_index": 255}
    return PreparedSet(items, **{**settings, **options})


@given(
    st.sampled_from([((20, 18), (8, 12)), ((12, 10, 9), (8, 12, 4)), ((4, 5), (6, 6))]),
    st.booleans(),
    st.integers(0, 999),
)
def test_a_window_of_the_item_or_padding_that_counts_nowhere(sizes, centred, seed):
    size, crop = sizes
    row = prepared([item(size, at=(1,) * len(size))])[0]
    draw = torch.Generator().manual_seed(seed)
    found = cropped(row, size=crop, centred=centred, ignore_index=255, rng=draw)
    assert found["labels"].shape == crop
    inside = found["labels"] != 255
    assert (
        int(inside.sum())
        == torch.tensor([min(a, b) for a, b in zip(size, crop, strict=True)]).prod()
    )
    assert torch.equal(found["pixels"][0][inside].long(), found["labels"][inside])
    if centred:
        assert (found["labels"] == 1).any()
    # The distance is that of the whole image, not of the window.
    near = found["distance"][inside]
    assert set(near.tolist()) <= set(row["distance"].flatten().tolist())


@given(st.integers(0, 999), st.sampled_from([(12, 10), (8, 6, 10)]))
def test_augmented_images_and_labels_stay_together(seed, size):
    row = prepared([item(size, at=(2,) * len(size))])[0]
    row["maps"] = row["labels"] + 3
    found = augmented(row, ignore_index=255, rng=torch.Generator().manual_seed(seed))
    labels, inside = found["labels"], found["labels"] != 255
    assert set(labels.unique().tolist()) <= {0, 1, 255}
    assert torch.equal(found["maps"][inside], labels[inside] + 3)
    assert ((found["distance"] <= 0) == (labels == 1))[inside].all()
    bright, dark = found["pixels"][0][labels == 1], found["pixels"][0][labels == 0]
    if len(bright) and len(dark):
        assert bright.mean() > dark.mean() + 0.3


def test_crops_repeat_for_a_seed_and_change_with_epoch():
    items = prepared([item(name="a"), item(at=(9, 9), name="b")], length=3)
    settings = {"crop": (8, 8), "augment": True, "ignore_index": 255}
    crops, again = (ContextCrops(items, **settings, seed=4) for _ in range(2))
    other = ContextCrops(items, **settings, seed=5)
    assert len(crops) == 3
    assert [crops[i]["name"] for i in range(6)] == ["a", "b"] * 3  # on beyond an epoch's end
    for index in range(6):
        assert torch.equal(crops[index]["pixels"], again[index]["pixels"])
    assert any(not torch.equal(crops[i]["pixels"], crops[i + 6]["pixels"]) for i in range(6))
    assert any(not torch.equal(crops[i]["pixels"], other[i]["pixels"]) for i in range(6))


def test_half_of_the_crops_are_centred():
    items = prepared([item((60, 60), at=(40, 40))])
    crops = ContextCrops(items, crop=(9, 9), augment=False, ignore_index=255, seed=0)
    middle = [int(crops[i]["labels"][4, 4]) for i in range(200)]
    assert 70 < sum(middle) < 130


def test_distances_are_in_millimetres_and_far_without_a_target():
    row = {**item((6, 5, 4), at=(1, 1, 1)), "spacing": torch.tensor([1.0, 2.0, 3.0])}
    found = prepared([row])[0]["distance"]
    expected = distance_map(row["target"][None], spacing=(1.0, 2.0, 3.0))[0]
    assert torch.equal(found, expected)
    empty = {**item(), "target": torch.zeros(20, 18, dtype=torch.int64)}
    assert prepared([empty])[0]["distance"].eq(0).all()  # published: context everywhere
    assert prepared([empty], empty_is_far=True)[0]["distance"].eq(FAR).all()
    assert "distance" not in prepared([empty], distance=False)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": torch.zeros(3, 3, dtype=torch.int64)}, r"a: want image .*\(3, 3\)"),
        ({"target": None}, "a: want image .* None"),
        ({"target": torch.full((20, 18), 2)}, "a: label 2; want below 2"),
    ],
)
def test_an_item_that_does_not_fit_is_named(change, words):
    row = {k: v for k, v in {**item(), **change}.items() if v is not None}
    with pytest.raises(SegmendError, match=words):
        prepared([row])[0]


def test_axes_of_item_and_patch_must_agree():
    row = prepared([item()])[0]
    with pytest.raises(SegmendError, match="a: has 2 axes, the patch"):
        cropped(row, size=(8, 8, 8), centred=False, ignore_index=255, rng=torch.Generator())
