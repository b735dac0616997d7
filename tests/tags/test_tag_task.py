"""Crops of tagged images: rescaled, square, padding marked, the same for the same epoch."""

import torch

from segmend.tags.options import TagOptions
from segmend.tags.task import TagCrops, TaggedItems, rescaled


class Photographs:
    def __init__(self, count=4, size=(20, 30)):
        self.images = [torch.rand(3, *size) for _ in range(count)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"name": str(index), "image": self.images[index], "tags": torch.eye(4)[index % 4]}


def test_crops_are_square_mark_padding_and_repeat():
    items = TaggedItems(Photographs())
    crops = TagCrops(items, TagOptions(crop=32, long_side=(32, 48), seed=3))
    for index in (0, 5, 11):
        item, again = crops[index], crops[index]
        assert item["image"].shape == (3, 32, 32)
        assert torch.equal(item["image"], again["image"])
        assert torch.equal(item["tags"], torch.eye(4)[index % 4])
        inside = item["target"] == 0
        assert inside.any()
        assert set(item["target"].unique().tolist()) <= {0, 255}
    sizes = {int((crops[4 * k]["target"] == 0).sum()) for k in range(8)}
    assert len(sizes) > 3  # the scale is drawn anew each epoch


def test_rescaling_keeps_the_shape_and_the_mean():
    image = torch.full((3, 20, 30), 0.25)
    found, target = rescaled(image, torch.zeros(20, 30), (60, 60), torch.Generator())
    assert found.shape == (3, 40, 60)
    assert target.shape == (40, 60)
    torch.testing.assert_close(found, torch.full_like(found, 0.25))
