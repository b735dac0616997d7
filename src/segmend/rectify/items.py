"""Images and tags of a set with other masks than its own, such as pseudo-masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from segmend.data.folders import check_same_size
from segmend.data.masks import read_mask
from segmend.data.tags import TagFolder
from segmend.engine.crops import Item
from segmend.errors import SegmendError


class PseudoMasked(Dataset[Item]):
    """A set's items with these files of masks as their targets.

    Args:
        items: images and tags.
        masks: one indexed mask an item, in the items' order.
    Raises:
        SegmendError: another number of masks; as in `read_mask`, or sizes that differ (when an
            item is read).
    """

    def __init__(self, items: TagFolder, masks: Sequence[Path]) -> None:
        if len(masks) != len(items):
            raise SegmendError(f"masks: want {len(items)}, one an image, got {len(masks)}")
        self.items, self.masks, self.matches = items, list(masks), items.matches

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Item:
        item = self.items[index]
        target = read_mask(
            self.masks[index],
            num_classes=max(self.items.num_classes, 2),
            ignore_index=self.items.ignore_index,
            encoding="index",
        )
        image = self.items.matches[index].paths["images"]
        check_same_size(image, item["image"], self.masks[index], target)
        return {**item, "target": target}

    def tag_table(self) -> Tensor:
        """As `TagFolder.tag_table`."""
        return self.items.tag_table()
