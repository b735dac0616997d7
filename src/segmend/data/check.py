"""What is wrong with a data set: every problem with its file, and what the set consists of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from segmend.data.check_files import FileFacts, inspect_image, inspect_mask
from segmend.data.check_tags import TagFacts, inspect_tags
from segmend.data.dataset_layout import DatasetLayout, find_layout
from segmend.errors import SegmendError

Level = Literal["error", "warning"]
SMALL = 16  # pixels; a network of stride 16 sees nothing in less


@dataclass(frozen=True)
class Problem:
    """One thing to mend ("error") or to know ("warning"); `text` names the file."""

    level: Level
    kind: str
    text: str


@dataclass
class Report:
    """The outcome of `check_dataset`; `summary()` is what is written as JSON."""

    layout: str
    problems: list[Problem] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        return sum(problem.level == "error" for problem in self.problems)

    def add(self, level: Level, kind: str, text: str) -> None:
        self.problems.append(Problem(level, kind, text))

    def summary(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        return {
            "layout": self.layout,
            "num_errors": self.num_errors,
            "num_warnings": len(self.problems) - self.num_errors,
            "problems": [vars(problem) for problem in self.problems],
            "statistics": self.statistics,
        }


def check_dataset(
    root: str | Path,
    *,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    tags: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    labels: str = "SegmentationClass",
    num_classes: int | None = None,
    ignore_index: int = 255,
    on_file: Callable[[int, int], None] | None = None,
) -> Report:
    """Read every file of a data set and list all that is wrong with it.

    Errors: images or masks that cannot be read, have no partner or another size than it, labels
    that are no class, two files of one name; lists that cannot be read, or name what is missing;
    tags that are no class, images there twice, without a row, or rows without an image.
    Warnings, which a sound set may have: images without a tag or with all tags, classes that never
    occur, tags that the mask does not show and the reverse, masks that are all ignored, images of
    fewer than 16 pixels a side, files with equal content, an image in both train and val or test.

    Args:
        root: VOC layout (`JPEGImages`), `images` and `masks` or `tags.*` below it, or a folder of
            images with tags beside or in it.
        images, masks, tags, classes: where the root does not say it; as in `TagFolder`.
        labels: VOC layout: name of the folder of masks.
        num_classes: of masks where there is no list of classes, background included; 2.
        on_file: called with (files read, of how many).
    Raises:
        SegmendError: there is no such folder, or no image in it.
    """
    layout = find_layout(
        Path(root), images=images, masks=masks, tags=tags, classes=classes, labels=labels
    )
    report = Report(layout.kind)
    for level, kind, text in layout.problems:
        report.add(level, kind, text)
    tag_facts = _check_tags(report, layout)
    known = layout.classes or (tag_facts.classes if tag_facts else ())
    count = len(known) if known else num_classes or 2
    facts, shown = _read_all(
        report, layout,
        partial(inspect_mask, num_classes=count, ignore_index=ignore_index, indices=bool(known)),
        on_file,
    )  # fmt: skip
    _check_pairs(report, layout, facts, shown)
    _check_contents(report, layout, facts)
    names = known or tuple(str(label) for label in range(count))
    if tag_facts is not None and shown:
        _compare(report, tag_facts, shown, names)
    report.statistics = _statistics(facts, shown, tag_facts, names)
    _check_classes(report, names)
    return report


def _read_all(
    report: Report,
    layout: DatasetLayout,
    inspect: Callable[[Path], FileFacts],
    on_file: Callable[[int, int], None] | None,
) -> tuple[dict[str, FileFacts], dict[str, FileFacts]]:
    """Facts of the images and of the masks that can be read; the others become problems."""
    facts: dict[str, FileFacts] = {}
    shown: dict[str, FileFacts] = {}
    look: Callable[[Path], FileFacts] = inspect_image
    jobs = [(facts, "image", look, item) for item in layout.images.items()]
    jobs += [(shown, "mask", inspect, item) for item in layout.masks.items()]
    for done, (home, kind, look, (name, path)) in enumerate(jobs, start=1):
        try:
            home[name] = look(path)
        except SegmendError as error:
            report.add("error", kind, str(error))
        if on_file is not None:
            on_file(done, len(jobs))
    return facts, shown


def _check_tags(report: Report, layout: DatasetLayout) -> TagFacts | None:
    if layout.tags is None:
        return None
    try:
        facts = inspect_tags(layout.tags, list(layout.images), layout.classes or None)
    except SegmendError as error:
        report.add("error", "tags", str(error))
        return None
    for text in facts.errors:
        report.add("error", "tags", text)
    width = facts.num_tags
    for name, found in facts.by_image.items():
        if not found:
            report.add("warning", "no tag", f"{layout.images[name]}: no tag; it shows background")
        elif len(found) == width > 2:
            report.add("warning", "all tags", f"{layout.images[name]}: all {width} classes")
    return facts


def _check_pairs(
    report: Report,
    layout: DatasetLayout,
    facts: Mapping[str, FileFacts],
    shown: Mapping[str, FileFacts],
) -> None:
    for name, path in layout.masks.items():
        if name not in layout.images:
            report.add("error", "partner", f"{path}: no image of this name")
        elif name in facts and name in shown and facts[name].size != shown[name].size:
            (height, width), (rows, columns) = facts[name].size, shown[name].size
            report.add(
                "error", "size",
                f"{path} is {rows}x{columns} (height x width), but its image "
                f"{layout.images[name]} is {height}x{width}",
            )  # fmt: skip
        if name in shown and not shown[name].pixels:
            report.add("warning", "all ignored", f"{path}: every pixel is ignored")
    for name in layout.need_masks:
        if name not in layout.masks and name in layout.images:
            report.add("error", "partner", f"{layout.images[name]}: no mask of this name")


def _check_contents(report: Report, layout: DatasetLayout, facts: Mapping[str, FileFacts]) -> None:
    first: dict[str, str] = {}
    for name, found in facts.items():
        path = layout.images[name]
        if min(found.size) < SMALL:
            report.add("warning", "small", f"{path}: {found.size[0]}x{found.size[1]} pixels")
        if found.digest in first:
            other = layout.images[first[found.digest]]
            report.add("warning", "same content", f"{path}: the same file as {other}")
        first.setdefault(found.digest, name)


def _compare(
    report: Report, tags: TagFacts, shown: Mapping[str, FileFacts], names: Sequence[str]
) -> None:
    for name, found in tags.by_image.items():
        if name in shown and shown[name].pixels:
            seen = {names[c] for c in shown[name].pixels if names[c] != "background"}
            for more, text in ((found - seen, "not in its mask"), (seen - found, "not tagged")):
                if more:
                    what = ", ".join(sorted(more))
                    report.add("warning", "tags and mask", f"{name}: {what}: {text}")


def _statistics(
    facts: Mapping[str, FileFacts],
    shown: Mapping[str, FileFacts],
    tags: TagFacts | None,
    names: Sequence[str],
) -> dict[str, Any]:
    sizes = Counter(found.size for found in facts.values())
    statistics: dict[str, Any] = {"num_images": len(facts), "num_masks": len(shown)}
    if sizes:
        statistics["sizes"] = {
            "different": len(sizes),
            "most_common": list(sizes.most_common(1)[0][0]),
            "smallest": list(min(sizes, key=math.prod)),
            "largest": list(max(sizes, key=math.prod)),
        }
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for found in shown.values():
        pixels.update(found.pixels)
        images.update(found.pixels.keys())
    tagged = Counter(tag for found in tags.by_image.values() for tag in found) if tags else None
    everything = sum(pixels.values())
    rows = {}
    for label, name in enumerate(names):
        row: dict[str, Any] = {}
        if tagged is not None and name != "background":
            row["images_tagged"] = tagged[name]
        if shown:
            row["images_with_mask"] = images[label]
            row["share_of_pixels"] = pixels[label] / everything if everything else None
        rows[name] = row
    statistics["classes"] = rows
    if tags is not None:
        counts = Counter(len(found) for found in tags.by_image.values())
        statistics["images_by_number_of_tags"] = {str(k): counts[k] for k in sorted(counts)}
    return statistics


def _check_classes(report: Report, names: Sequence[str]) -> None:
    for name in names:
        row = report.statistics["classes"][name]
        if row and not any(row.get(key) for key in ("images_tagged", "images_with_mask")):
            report.add("warning", "absent class", f"class {name!r} occurs nowhere")
