"""Which files of several folders belong together: by stem, whatever the suffix conventions."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segmend.data.images import IMAGE_SUFFIXES
from segmend.data.probability_maps import PROBABILITY_SUFFIXES
from segmend.errors import SegmendError

# What tools append to the name of an image: "_0000" is nnU-Net's first channel, "_sat" DeepGlobe's.
STEM_SUFFIXES = (
    "mask", "masks", "label", "labels", "seg", "segmentation", "gt", "groundtruth", "prob",
    "probs", "probabilities", "pred", "prediction", "image", "images", "img", "sat", "0000",
)  # fmt: skip
_STRIPPED = re.compile(rf"(?<=.)[_-](?:{'|'.join(STEM_SUFFIXES)})$", re.IGNORECASE)
_BY_ROLE = {
    "images": IMAGE_SUFFIXES,
    "masks": IMAGE_SUFFIXES,
    "probs": PROBABILITY_SUFFIXES,
}
_ANY = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *PROBABILITY_SUFFIXES)))
_SHOWN = 5


@dataclass(frozen=True)
class Match:
    """Files of one item: `name` is the common stem with its subfolder, "a/b/img_07"."""

    name: str
    paths: dict[str, Path]


def match_folders(folders: Mapping[str, str | Path], *, partial: bool = False) -> list[Match]:
    """Pair the files of several folders by their names, in natural order (img_2 before img_10).

    Two files belong together where their paths below the folder agree without the file suffix;
    failing that, where they agree once an ending such as `_mask`, `_gt`, `_prob` or `_0000`
    (STEM_SUFFIXES, any case, after `_` or `-`) is taken off one or several of them. Equal stems win
    over stripped ones, and nothing is stripped where two files of a folder would become one.
    Names are compared in Unicode's NFC form (macOS writes NFD). Hidden files, other file types
    and hidden folders are passed over; links to folders are not followed.

    In the role "probs", `a.npz` wins over `a.png` beside it, which nnU-Net writes as the
    segmentation; in "pred" the other one wins. The role also says which file types count.

    Args:
        folders: role ("images", "masks", "probs", "pred", or any other) -> folder.
        partial: keep the items that all roles have instead of raising for those that miss some.
    Raises:
        SegmendError: a folder is missing, a file, empty of readable files, or also the images'
            folder; two files of a folder have one stem; partners are missing (up to 5 named).
    """
    _refuse_shared_folder(folders)
    exact = {role: _by_stem(role, Path(folder)) for role, folder in folders.items()}
    stripped = {role: _by_stripped_stem(stems) for role, stems in exact.items()}
    matches, used = _assign(exact, stripped)
    lonely = {
        role: [path for stem, path in stems.items() if (role, stem) not in used]
        for role, stems in exact.items()
    }
    if not partial and any(lonely.values()):
        raise SegmendError(_missing_partners(folders, lonely, len(matches)))
    if not matches:
        names = "; ".join(f"{role}: {folder}" for role, folder in folders.items())
        raise SegmendError(f"no file has a partner of the same stem in every folder ({names})")
    return sorted(matches, key=lambda match: natural_key(match.name))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which numbers inside names count as numbers; ties keep the plain order."""
    parts = re.split(r"([0-9]+)", name)
    # Only ASCII digits were split off: int() refuses "²", which isdigit() would let pass.
    key = [(0, int(p), "") if p.isascii() and p.isdecimal() else (1, 0, p) for p in parts if p]
    return [*key, (-1, 0, name)]


def _assign(
    exact: Mapping[str, Mapping[str, Path]], stripped: Mapping[str, Mapping[str, str]]
) -> tuple[list[Match], set[tuple[str, str]]]:
    """Greedily take the names that all roles can serve, those with most equal stems first."""
    names = {name for stems in (*exact.values(), *stripped.values()) for name in stems}
    ranked = sorted(names, key=lambda name: (-sum(name in s for s in exact.values()), name))
    matches: list[Match] = []
    used: set[tuple[str, str]] = set()
    for name in ranked:
        stems = {r: name if name in exact[r] else stripped[r].get(name) for r in exact}
        members = {(role, stem) for role, stem in stems.items() if stem is not None}
        if len(members) == len(exact) and not members & used:
            used |= members
            matches.append(Match(name, {r: exact[r][s] for r, s in stems.items() if s is not None}))
    return matches, used


def _by_stripped_stem(stems: Iterable[str]) -> dict[str, str]:
    """Shortened stem -> stem, without those that two files share."""
    groups: dict[str, list[str]] = {}
    for stem in stems:
        short = _STRIPPED.sub("", stem)
        if short != stem and not short.endswith("/"):
            groups.setdefault(short, []).append(stem)
    return {s: found[0] for s, found in groups.items() if len(found) == 1}


def _by_stem(role: str, folder: Path) -> dict[str, Path]:
    """Stem with subfolder, NFC -> path, for the readable files below `folder`."""
    suffixes = _BY_ROLE.get(role, _ANY)
    if not folder.exists():
        raise SegmendError(f"{role}: {folder}: no such folder")
    if not folder.is_dir():
        raise SegmendError(f"{role}: {folder}: is a file; want a folder")
    stems: dict[str, Path] = {}
    others: set[str] = set()
    for path in _files_below(folder):
        if path.suffix.lower() not in suffixes:
            others.add(path.suffix or path.name)
            continue
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        stem = unicodedata.normalize("NFC", str(relative.with_suffix("")))
        stems[stem] = _only_one(role, stem, stems.get(stem), path)
    if not stems:
        seen = f"only {', '.join(sorted(others)[:_SHOWN])}" if others else "it is empty"
        raise SegmendError(
            f"{role}: {folder}: no file to read ({seen}); want {', '.join(suffixes)}"
        )
    return stems


def _only_one(role: str, stem: str, known: Path | None, path: Path) -> Path:
    if known is None:
        return path
    archives = [p for p in (known, path) if p.suffix.lower() == ".npz"]
    if role in ("probs", "pred") and len(archives) == 1:
        plain = known if archives[0] is path else path
        return archives[0] if role == "probs" else plain
    raise SegmendError(
        f"{role}: two files have the stem {stem!r}: {known} and {path}; remove or rename one"
    )


def _files_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(base, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _refuse_shared_folder(folders: Mapping[str, str | Path]) -> None:
    if not folders:
        raise SegmendError("folders: want one or more, got none")
    images = folders.get("images")
    for role, folder in folders.items():
        if role != "images" and images and Path(folder).resolve() == Path(images).resolve():
            raise SegmendError(
                f"{folder}: is the folder of both images and {role}; each file would be its own "
                "partner; move them to folders of their own"
            )


def _missing_partners(
    folders: Mapping[str, str | Path], lonely: Mapping[str, list[Path]], matched: int
) -> str:
    lines = [f"{matched} items are complete, but these files have no partner of the same stem:"]
    for role, paths in lonely.items():
        if paths:
            paths = sorted(paths, key=lambda path: natural_key(str(path)))
            shown = ", ".join(str(p.relative_to(folders[role])) for p in paths[:_SHOWN])
            more = ", ..." if len(paths) > _SHOWN else ""
            lines.append(f"  {role} ({folders[role]}): {len(paths)}: {shown}{more}")
            lines += _clash(paths)
    lines.append("Add the missing files, rename them to equal stems, or keep the complete items")
    return "\n".join(lines) + " only (partial)."


def _clash(paths: list[Path]) -> list[str]:
    """A hint where two files would both become the partner of one name."""
    known: dict[str, Path] = {}
    for path in paths:
        short = _STRIPPED.sub("", str(path.with_suffix("")))
        if short in known:
            return [f"    {known[short].name} and {path.name} both fit {Path(short).name!r}"]
        known[short] = path
    return []
