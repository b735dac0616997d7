"""Refine a folder of maps: read ahead and write behind, so that the network sets the pace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from segmend.data.folders import Match, match_folders
from segmend.data.images import read_image
from segmend.data.masks import write_mask
from segmend.data.probability_maps import read_probabilities, write_probabilities
from segmend.errors import SegmendError
from segmend.refine.refiner import Refiner

READ_AHEAD = 4
"""Maps decoded before their turn, and maps waiting to be written: memory is this many maps."""

Write = Literal["masks", "probs", "both"]


class ApplyOptions(BaseModel):
    """Settings of `segmend refine apply`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    write: Write = Field("masks", description="Masks, refined probability maps, or both.")


@dataclass(frozen=True)
class FolderResult:
    """What `refine_folder` did: maps refined, maps found done already, and where time went."""

    refined: int
    skipped: int
    seconds: float
    network_seconds: float


@dataclass(frozen=True)
class Target:
    """The files that one map becomes; None where not asked for."""

    mask: Path | None
    probs: Path | None

    def exists(self) -> bool:
        return all(path is None or path.exists() for path in (self.mask, self.probs))


def refine_folder(
    refiner: Refiner,
    probs: Path,
    out: Path,
    *,
    images: Path | None = None,
    write: Write = "masks",
    resume: bool = True,
    track: Callable[[Sequence[Match]], Iterator[Match]] = iter,
) -> FolderResult:
    """Refine every map in `probs`, one at a time, into `out`.

    Masks are 0 / 255 PNG for one channel and label PNG for several; maps are 16-bit PNG or, for
    several channels, NPZ. With `write="both"` they go to `out/masks` and `out/probs`. Each file
    is complete or absent, and a map whose files exist is skipped when `resume` is set.

    Raises:
        SegmendError: naming the file that cannot be read, used or written.
    """
    folders = {"probs": probs} if images is None else {"probs": probs, "images": images}
    matches = match_folders(folders)
    suffix = ".png" if refiner.channels == 1 else ".npz"
    targets = {m.name: _target(out, m.name, write, suffix) for m in matches}
    todo = [m for m in matches if not (resume and targets[m.name].exists())]
    start = time.perf_counter()
    network_seconds = 0.0
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        written: deque[Future[None]] = deque()
        for match, (map_, image) in _read_ahead(track(todo), reader):
            before = time.perf_counter()
            refined = _refine(refiner, match, map_, image)
            network_seconds += time.perf_counter() - before
            written.append(writer.submit(_save, refined, targets[match.name]))
            while len(written) > READ_AHEAD:
                written.popleft().result()
        while written:
            written.popleft().result()
    seconds = time.perf_counter() - start
    return FolderResult(len(todo), len(matches) - len(todo), seconds, network_seconds)


Loaded = tuple[Tensor, Tensor | None]


def _read_ahead(
    matches: Iterator[Match], reader: ThreadPoolExecutor
) -> Iterator[tuple[Match, Loaded]]:
    waiting: deque[tuple[Match, Future[Loaded]]] = deque()
    for match in matches:
        waiting.append((match, reader.submit(_load, match)))
        if len(waiting) > READ_AHEAD:
            done, future = waiting.popleft()
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()


def _load(match: Match) -> Loaded:
    map_ = read_probabilities(match.paths["probs"])
    if "images" not in match.paths:
        return map_, None
    image = read_image(match.paths["images"])
    if image.shape[1:] != map_.shape[1:]:
        raise SegmendError(
            f"{match.paths['images']} is {tuple(image.shape[1:])} but {match.paths['probs']} is "
            f"{tuple(map_.shape[1:])}; want the same height and width"
        )
    return map_, image


@torch.inference_mode()
def _refine(refiner: Refiner, match: Match, map_: Tensor, image: Tensor | None) -> Tensor:
    try:
        refined: Tensor = refiner(map_.unsqueeze(0), None if image is None else image.unsqueeze(0))
    except SegmendError as error:
        raise SegmendError(f"{match.paths['probs']}: {error}") from error
    return refined[0]


def _target(out: Path, name: str, write: Write, suffix: str) -> Target:
    masks, probs = (out / "masks", out / "probs") if write == "both" else (out, out)
    # A name may hold dots: the suffix is added, never replaced.
    return Target(
        mask=masks / f"{name}.png" if write in ("masks", "both") else None,
        probs=probs / f"{name}{suffix}" if write in ("probs", "both") else None,
    )


def _save(refined: Tensor, target: Target) -> None:
    if target.probs is not None:
        write_probabilities(target.probs, refined)
    if target.mask is not None:
        if refined.shape[0] == 1:
            write_mask(target.mask, (refined[0] > 0.5).long(), encoding="0/255")
        else:
            write_mask(target.mask, refined.argmax(0), encoding="index")
