"""Options that name a data set of images and tags, the same in all of `segmend tags`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from segmend.data.tags import TagFolder

DATA = Annotated[
    Path, typer.Option(help="Folder in the VOC layout, or of images with a tags.csv or tags.json.")
]
SPLIT = Annotated[str | None, typer.Option(help="VOC layout: the list to follow, such as train.")]
TAGS = Annotated[
    str | None,
    typer.Option(help="File of tags (CSV, JSON, NPY), folder of VOC boxes, or masks or none."),
]
CLASSES = Annotated[Path | None, typer.Option(help="File of class names, one a line, or JSON.")]
LABELS = Annotated[
    str | None, typer.Option(help="VOC layout: folder of true masks.  [default: SegmentationClass]")
]
MASKS = Annotated[Path | None, typer.Option(help="Folder of true masks, if not in the VOC layout.")]


@dataclass(frozen=True)
class DataSet:
    """A data set as the options name it."""

    data: DATA
    split: SPLIT = None
    tags: TAGS = None
    classes: CLASSES = None
    labels: LABELS = None

    def open(
        self, *, split: str | None = None, masks: Path | None = None, with_masks: bool = False
    ) -> TagFolder:
        """Its images (of another split, where one is given) and tags, and its masks if wanted."""
        found = self.data, split or self.split, self.tags, self.classes, self.labels
        return open_folder(*found, masks, with_masks=with_masks)

    def inputs(self) -> dict[str, Path | str | None]:
        """What a record of the run says of it."""
        return asdict(self)


def takes_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `DataSet` in the place of its parameter `folder`."""
    hints = get_type_hints(command, include_extras=True)
    known = get_type_hints(DataSet, include_extras=True)
    names = [field.name for field in fields(DataSet)]
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "folder":
            parameters += [_option(f.name, f.default, known[f.name]) for f in fields(DataSet)]
        else:
            parameters.append(_option(name, parameter.default, hints[name]))

    @functools.wraps(command)
    def call(**options: Any) -> None:
        folder = DataSet(**{name: options.pop(name) for name in names})
        command(folder=folder, **options)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _option(name: str, default: object, annotation: object) -> inspect.Parameter:
    if default is MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def open_folder(
    data: Path,
    split: str | None,
    tags: str | None,
    classes: Path | None,
    labels: str | None,
    masks: Path | None = None,
    *,
    with_masks: bool = True,
) -> TagFolder:
    """The data set that the options name; masks may be there for some images only if not read."""
    from segmend.data.tags import TagFolder

    return TagFolder(
        data,
        split=split,
        tags=tags,
        classes=classes,
        labels=labels,
        masks=masks,
        with_masks=with_masks,
    )
