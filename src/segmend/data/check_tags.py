"""All problems of a file of tags at once, where the readers stop at the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmend.data.tag_files import doubles, read_tag_rows
from segmend.data.tag_table import row_names, tag_positions
from segmend.errors import SegmendError


@dataclass(frozen=True)
class TagFacts:
    """classes: names in label order. by_image: image -> names of its tags, without wrong ones."""

    classes: tuple[str, ...]
    num_tags: int
    by_image: dict[str, set[str]]
    errors: list[str]


def inspect_tags(source: Path, images: Sequence[str], classes: tuple[str, ...] | None) -> TagFacts:
    """Hold the rows of `source` against the images and the classes.

    Args:
        classes: in label order; None takes "background" and all names in the file, sorted.
    Raises:
        SegmendError: the file cannot be read at all, or has labels and there are no classes.
    """
    rows = read_tag_rows(source, allow_doubles=True)
    if classes is None:
        found = {tag for row in rows for tag in row.tags}
        if not all(isinstance(tag, str) for tag in found):
            raise SegmendError(f"{source}: has labels, not names; give the list of classes")
        classes = ("background", *sorted(str(tag) for tag in found))
    background = 0 if classes[0] == "background" else None
    taggable = [name for label, name in enumerate(classes) if label != background]
    errors = list(doubles(rows))
    known, by_image = row_names(images), dict[str, set[str]]()
    for row in rows:
        name = known.get(row.image)
        if name is None:
            errors.append(f"{row.where}: image {row.image!r} is not there")
        tags = set()
        for tag in row.tags:
            try:
                one = replace(row, tags=(tag,))
                tags |= {taggable[i] for i in tag_positions(one, classes, background=background)}
            except SegmendError as error:
                errors.append(str(error))
        if name is not None:
            by_image.setdefault(name, tags)
    errors += [f"{source}: image {name!r} has no row" for name in images if name not in by_image]
    return TagFacts(classes, len(taggable), by_image, errors)
