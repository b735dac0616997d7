"""Activation maps on disk: one NPZ an image, with the maps of its tagged classes only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from segmend.data.files import atomic_write
from segmend.errors import SegmendError

KEYS = ("cams", "classes", "scores", "size")


@dataclass(frozen=True)
class CamFile:
    """The maps of one image.

    Attributes:
        cams: float32 (P, h, w), as summed over scales and mirror images, not normalised.
        classes: int64 (P,), which class each map is of, counted without background.
        scores: float32 (C,), the logits of all classes.
        size: height and width of the image.
    """

    cams: Tensor
    classes: Tensor
    scores: Tensor
    size: tuple[int, int]

    def dense(self) -> Tensor:
        """Maps of all C classes, zero where a class is not tagged: (C, h, w)."""
        maps = self.cams.new_zeros(len(self.scores), *self.cams.shape[1:])
        maps[self.classes] = self.cams
        return maps

    def tags(self) -> Tensor:
        """Which classes have a map: float32 (C,)."""
        tags = torch.zeros(len(self.scores))
        tags[self.classes] = 1
        return tags


def write_cams(
    path: Path, cams: Tensor, tags: Tensor, scores: Tensor, size: tuple[int, int]
) -> None:
    """Write the maps (C, h, w) of the classes that `tags` (C,) names, as float16.

    Raises:
        SegmendError: a map is not finite.
    """
    classes = (tags > 0.5).nonzero().flatten()
    kept = cams[classes]
    if not bool(kept.isfinite().all()):
        raise SegmendError(
            f"{path}: the network gave NaN or infinite maps; it has diverged: train again with "
            "a lower lr"
        )
    # Half precision ends at 65504: maps are brought below it by one factor an image.
    factor = max(1.0, float(kept.abs().max()) / 60000) if kept.numel() else 1.0
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            cams=(kept / factor).half().numpy(),
            classes=classes.numpy(),
            scores=scores.float().numpy(),
            size=np.asarray(size),
        )


def read_cams(path: Path, *, num_tags: int | None = None) -> CamFile:
    """Read what `write_cams` wrote.

    `num_tags` is how many classes can be tagged in the data that the maps are used with.

    Raises:
        SegmendError: a missing, truncated or foreign file, maps that are not finite, or of another
            number of classes.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            missing = [key for key in KEYS if key not in content]
            if missing:
                raise SegmendError(
                    f"{path}: not a file of activation maps, {', '.join(missing)} missing; want "
                    "one that `segmend tags cams` wrote"
                )
            cams, classes, scores, size = (content[key] for key in KEYS)
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise SegmendError(f"{path}: cannot be read as activation maps (NPZ): {error}") from error
    fits = cams.ndim == 3 and classes.shape == cams.shape[:1] and size.shape == (2,)
    if not fits or (classes.size and int(classes.max()) >= len(scores)):
        raise SegmendError(
            f"{path}: want maps (P, h, w) of P classes below {len(scores)}, got {cams.shape} and "
            f"classes {classes.tolist()}"
        )
    if num_tags is not None and len(scores) != num_tags:
        raise SegmendError(
            f"{path}: maps of a network for {len(scores)} classes, the data has {num_tags} to tag; "
            "draw them again with `segmend tags cams`"
        )
    maps = torch.from_numpy(cams).float()
    if not bool(maps.isfinite().all()):
        raise SegmendError(f"{path}: holds NaN or infinite maps")
    return CamFile(
        maps,
        torch.from_numpy(classes).long(),
        torch.from_numpy(scores).float(),
        (int(size[0]), int(size[1])),
    )
