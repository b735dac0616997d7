"""From rows of tags to a multi-hot table over given images and classes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from segmend.data.tag_files import TagRow, image_key
from segmend.errors import SegmendError

_SHOWN = 5


def tag_classes(classes: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Class names in label order: given, or from a JSON list or a text with one a line.

    A JSON file may also be {"classes": [names]}.

    Raises:
        SegmendError: unreadable, empty, a name that is no text or there twice.
    """
    where, names = "classes", cast(object, classes)
    if isinstance(classes, (str, Path)):
        path = Path(classes)
        where = str(path)
        try:
            text = path.read_text("utf-8-sig")
            if path.suffix.lower() == ".json":
                content = json.loads(text)
                names = content.get("classes") if isinstance(content, dict) else content
            else:
                names = [line.strip() for line in text.splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise SegmendError(f"{where}: cannot be read as a list of classes ({error})") from error
    if not isinstance(names, (list, tuple)) or not names:
        raise SegmendError(f"{where}: want a list of class names, got {names!r}")
    wrong = next((name for name in names if not isinstance(name, str) or not name.strip()), None)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if wrong is not None or twice is not None:
        problem = f"{wrong!r} is no name" if wrong is not None else f"{twice!r} is there twice"
        raise SegmendError(f"{where}: {problem}; want different names in label order")
    if tuple(names) == ("background",):
        raise SegmendError(f"{where}: nothing but the background; want at least one class")
    return tuple(names)


def tag_table(
    rows: Sequence[TagRow],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    background: int | None,
    source: str | Path,
    also: Collection[str] = (),
    partial: bool = False,
) -> tuple[Tensor, list[int]]:
    """Tags of the images `names`, and which of these have a row.

    Args:
        rows: from `read_tag_rows`; `source` is their file, for messages.
        classes: names in label order; `background` is the label that is no tag.
        also: images that rows may name though they are not asked for.
        partial: leave out images without a row, and pass over rows without an image.
    Returns:
        float32 {0, 1} (M, C) over the classes without the background, and the indices (M,) into
        `names`; all of them unless `partial`.
    Raises:
        SegmendError: an unknown tag (with the closest class), images without a row, rows without
            an image; with file and line.
    """
    places = row_names([*names, *also])
    found: dict[str, TagRow] = {}
    lost = []
    for row in rows:
        name = places.get(row.image)
        if name is None:
            lost.append(row)
        elif name in found:
            raise SegmendError(
                f"{row.where}: image {name!r} has tags already ({found[name].where}); keep one"
            )
        else:
            found[name] = row
    kept = [index for index, name in enumerate(names) if name in found]
    if not partial:
        _refuse_missing(source, [n for n in names if n not in found], lost, len(kept))
    taggable = [label for label in range(len(classes)) if label != background]
    table = torch.zeros(len(kept), len(taggable))
    for line, index in enumerate(kept):
        for position in tag_positions(found[names[index]], classes, background=background):
            table[line, position] = 1.0
    return table, kept


def tag_positions(row: TagRow, classes: Sequence[str], *, background: int | None) -> list[int]:
    """Positions of a row's tags among the classes without the background.

    Raises:
        SegmendError: a tag that is no class, a label out of range, the background as a tag.
    """
    taggable = [label for label in range(len(classes)) if label != background]
    if row.positions:
        outside = [tag for tag in row.tags if int(tag) >= len(taggable)]
        if outside:
            raise SegmendError(
                f"{row.where}: position {outside[0]} of a multi-hot array; want one of "
                f"{len(taggable)} classes; check `classes`"
            )
        return [int(tag) for tag in row.tags]
    known = {name: label for label, name in enumerate(classes)}
    positions = []
    for tag in row.tags:
        label = known.get(tag) if isinstance(tag, str) else tag
        if label is None and isinstance(tag, str) and tag.isascii() and tag.isdecimal():
            label = int(tag)  # CSV does not tell numbers from names
        if label is None or not 0 <= label < len(classes):
            raise SegmendError(_unknown(row, tag, classes))
        if label == background:
            raise SegmendError(
                f"{row.where}: image {row.image!r}: {classes[label]!r} is no tag: every image may "
                "show it; leave it out"
            )
        positions.append(taggable.index(label))
    return positions


def _unknown(row: TagRow, tag: str | int, classes: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(tag), classes, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    return f"{row.where}: image {row.image!r}: unknown tag {tag!r}{hint} Classes: {shown}"


def row_names(names: Sequence[str]) -> dict[str, str]:
    """What a row may call an image -> its name; VOC's IDs also without their underscore."""
    exact = {image_key(name): name for name in names}
    digits: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        short = name.replace("_", "")
        if short != name and short.isascii() and short.isdecimal():
            digits.setdefault(short, []).append(name)
    return {short: found[0] for short, found in digits.items() if len(found) == 1} | exact


def _refuse_missing(
    source: str | Path, images: Sequence[str], rows: Sequence[TagRow], complete: int
) -> None:
    if not images and not rows:
        return
    lines = [f"{source}: {complete} images have tags, but"]
    if images:
        lines.append(f"  {len(images)} images have no row: {_few(list(images))}")
    if rows:
        shown = _few([f"{row.image} ({row.where})" for row in rows])
        lines.append(f"  {len(rows)} rows name an image that is not there: {shown}")
    lines.append(
        "Add a row (with no tag, where an image shows no class), remove or correct the others, or "
        "keep the complete ones only (partial)."
    )
    raise SegmendError("\n".join(lines))


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
