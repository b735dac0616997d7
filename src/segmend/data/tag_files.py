"""Files of image tags as rows that still know where they came from: CSV, JSON, .npy, VOC boxes."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from segmend.data.files import write_json
from segmend.data.images import IMAGE_SUFFIXES
from segmend.data.npy_tags import read_multi_hot
from segmend.errors import SegmendError

TAG_SUFFIXES = (".csv", ".tsv", ".json", ".npy")
_SEPARATORS = re.compile(r"[;|,]")


@dataclass(frozen=True)
class TagRow:
    """The tags of one image as its file has them.

    image: name without its file suffix, with "/" between folders. tags: class names, or indices
    as integers. where: file and, where it is known, line. positions: the indices count the
    foreground classes from 0 (multi-hot) and not the labels.
    """

    image: str
    tags: tuple[str | int, ...]
    where: str
    positions: bool = False


def read_tag_rows(path: str | Path, *, allow_doubles: bool = False) -> list[TagRow]:
    """Read the tags of a set of images, one row an image, in the order of the file.

    .csv, .tsv: a header line `image,tags` with tags separated by `;`, `|` or `,` (quoted), or
        `image,tag` with one tag a line; other columns are passed over. An empty cell: no tag.
    .json: {"ID": ["cow", 3, ...], ...}; names or labels.
    .npy: the pickled dict of ID -> multi-hot array of the WSSS repositories (`cls_labels.npy`),
        read without running anything in it.
    A folder: VOC annotations, ID.xml; tags are the names of the objects, difficult ones included.

    Args:
        allow_doubles: leave an image or a tag that is there twice to `doubles`.
    Raises:
        SegmendError: missing, unreadable, another format, an image twice, a tag twice for one
            image; with file and line.
    """
    path = Path(path)
    if path.is_dir():
        rows = list(_read_boxes(path))
    elif not path.is_file():
        raise SegmendError(f"{path}: no such file; want tags as {', '.join(TAG_SUFFIXES)}")
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = _read_csv(path)
    elif path.suffix.lower() == ".json":
        rows = _read_json(path)
    elif path.suffix.lower() == ".npy":
        rows = [
            TagRow(image_key(name), tags, f"{path}, entry {name!r}", positions=True)
            for name, tags in read_multi_hot(path).items()
        ]
    else:
        raise SegmendError(f"{path}: want tags as {', '.join(TAG_SUFFIXES)} or a folder of .xml")
    problem = None if allow_doubles else next(doubles(rows), None)
    if problem is not None:
        raise SegmendError(problem)
    return rows


def doubles(rows: Iterable[TagRow]) -> Iterator[str]:
    """What is there twice among rows: an image, or a tag of one image."""
    seen: dict[str, str] = {}
    for row in rows:
        if row.image in seen:
            yield f"{row.where}: image {row.image!r} has tags already ({seen[row.image]}); keep one"
        seen.setdefault(row.image, row.where)
        twice = next((tag for i, tag in enumerate(row.tags) if tag in row.tags[:i]), None)
        if twice is not None:
            yield f"{row.where}: image {row.image!r}: tag {twice!r} is there twice"


def write_tags(path: str | Path, tags: dict[str, list[str]]) -> None:
    """Write {ID: names of its classes} as the JSON that `read_tag_rows` reads."""
    write_json(path, tags)


def image_key(name: str) -> str:
    """A name to compare by: no image suffix, "/" between folders, Unicode's NFC form."""
    plain = PurePosixPath(name.strip().replace("\\", "/"))
    plain = plain.with_suffix("") if plain.suffix.lower() in IMAGE_SUFFIXES else plain
    return unicodedata.normalize("NFC", str(plain))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SegmendError(f"{path}: not text in UTF-8 ({error}); save it as UTF-8") from error


def _read_csv(path: Path) -> list[TagRow]:
    text = _read_text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)  # Excel writes ";" in half of Europe
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        many = "tags" in header
        if "image" not in header or not (many or "tag" in header):
            raise SegmendError(
                f"{path}, line 1: want a header with the columns image,tags (or image,tag with "
                f"one tag a line), got {first.strip()!r}"
            )
        columns = header.index("image"), header.index("tags" if many else "tag")
        cells = [
            (f"{path}, line {reader.line_num}", *_pick(path, reader.line_num, row, columns))
            for row in reader
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise SegmendError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if many:
        return [TagRow(name, _split_tags(cell), where) for where, name, cell in cells]
    return _gather(cells)


def _pick(path: Path, line: int, row: list[str], columns: tuple[int, int]) -> tuple[str, str]:
    if len(row) <= columns[0] or not row[columns[0]].strip():
        raise SegmendError(f"{path}, line {line}: no image name")
    # spreadsheets drop empty cells at the end of a line
    tags = row[columns[1]].strip() if len(row) > columns[1] else ""
    return image_key(row[columns[0]]), tags


def _split_tags(cell: str) -> tuple[str | int, ...]:
    return tuple(tag.strip() for tag in _SEPARATORS.split(cell) if tag.strip())


def _gather(cells: list[tuple[str, str, str]]) -> list[TagRow]:
    """One row an image from one line a tag."""
    rows: dict[str, TagRow] = {}
    for where, name, tag in cells:
        row = rows.setdefault(name, TagRow(name, (), where))
        if tag:
            # the last line of the image is the one to name where its tags are wrong
            rows[name] = TagRow(name, (*row.tags, tag), where)
    return list(rows.values())


def _read_json(path: Path) -> list[TagRow]:
    text = _read_text(path)
    pairs: list[list[tuple[str, object]]] = []

    def keep(found: list[tuple[str, object]]) -> dict[str, object]:
        pairs.append(found)  # the outermost comes last, with doubled keys still in it
        return dict(found)

    try:
        content = json.loads(text, object_pairs_hook=keep)
    except ValueError as error:
        raise SegmendError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise SegmendError(f'{path}: want {{"ID": ["class", ...]}}, got {type(content).__name__}')
    rows, start = [], 0
    for name, tags in pairs[-1]:
        match = re.compile(re.escape(json.dumps(name)) + r"\s*:").search(text, start)
        match = match or re.compile(re.escape(f'"{name}"') + r"\s*:").search(text, start)
        line = f", line {text.count(chr(10), 0, match.start()) + 1}" if match else ""
        start = match.end() if match else start
        where = f"{path}{line}"
        if not isinstance(tags, list) or not all(_is_tag(tag) for tag in tags):
            raise SegmendError(f"{where}: image {name!r}: want a list of class names or labels")
        rows.append(TagRow(image_key(name), tuple(tags), where))
    return rows


def _is_tag(tag: object) -> bool:
    return isinstance(tag, (str, int)) and not isinstance(tag, bool)


def _read_boxes(folder: Path) -> Iterator[TagRow]:
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise SegmendError(f"{folder}: no .xml file; want VOC annotations, one ID.xml an image")
    for path in files:
        names = tuple(dict.fromkeys(name for name in _object_names(path)))
        yield TagRow(image_key(path.stem), names, str(path))


def _object_names(path: Path) -> list[str]:
    """Text of annotation/object/name; a part of an object has a name of its own."""
    names: list[str] = []
    stack: list[str] = []
    parser = expat.ParserCreate()

    def text(content: str) -> None:
        if stack[1:] == ["object", "name"]:
            names[-1] += content

    def start(tag: str, _: object) -> None:
        stack.append(tag)
        if stack[1:] == ["object", "name"]:
            names.append("")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise SegmendError(f"{path}, line {error.lineno}: not XML ({error})") from error
    return [name.strip() for name in names]
