"""How much is background, without one true mask: what tells the most about the image's colours.

Maps of two networks differ in how steeply they fall off, and the best background score with them,
tenfold. An object's pixels, though, have other colours than what is around it. So masks of a few
images are made with every score, and the score is taken whose masks say the most about the colours
of their pixels: the mutual information of "foreground or background" and "which colour".

Every image has one vote, its information over the most that any score gives it: a few images with
much of it would decide otherwise. A score is judged together with its neighbours (¼, ½, ¼). Both
make the choice steadier: on MSRC's training images the masks' mIoU lay 0.7 to 2.1 points below that
of the best score (seven sets of maps, draws of 64 images), without them 1.6 to 4.3.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from segmend.data.files import write_json
from segmend.data.tags import TagFolder
from segmend.engine.progress import track
from segmend.errors import SegmendError, SegmendWarning
from segmend.tags.affinity_network import AffinityNet, IRNet
from segmend.tags.cam_files import read_cams
from segmend.tags.image_masks import masks_of
from segmend.tags.options import MaskOptions

CONSTANTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35)
WALK_POWERS = (4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
COLOURS = 16
"""Clusters of an image's colours."""
IMAGES = 64
"""Images that are looked at, spread over the set."""
SAMPLE = 2000
"""Pixels of an image that its colours are found from."""
NO_DOUBT = {"confidence": 0.0, "need_agreement": False, "min_share": 0.0}
"""Settings of masks in which every pixel has its label."""
ROUNDING = 1e-12
"""Information below it is none: the sum's last digits, which must not vote."""
CHOICE = "background.json"


def settle_background(
    options: MaskOptions,
    cams: Path,
    items: TagFolder,
    out: Path,
    *,
    affinity: AffinityNet | IRNet | None = None,
    resume: bool = True,
    progress: bool = True,
) -> MaskOptions:
    """`options` with the background score that they leave open; `out`/background.json says why.

    After AffinityNet's walk that is `walk_power`, else `constant`. Where nothing is open, a file
    from an earlier choice goes: it would say what no longer holds.
    """
    name = _open(options, items, affinity)
    path = out / CHOICE
    if name is None:
        path.unlink(missing_ok=True)
        return options
    found = _read(path, name) if resume else None
    if found is None:
        values = CONSTANTS if name == "constant" else WALK_POWERS
        votes = _votes(options, name, values, cams, items, affinity, progress)
        told = dict(zip(values, votes, strict=True))
        found = max(told, key=lambda value: told[value])
        if not any(votes):
            _warn_of_flat_maps(name)
        write_json(path, {name: found, "information": {str(v): told[v] for v in values}})
    return options.model_copy(update={name: found})


def _open(
    options: MaskOptions, items: TagFolder, affinity: AffinityNet | IRNet | None
) -> str | None:
    """Which setting is to be chosen, if any."""
    if items.background is None:
        return None
    if isinstance(affinity, AffinityNet):
        return "walk_power" if options.walk_power is None else None
    return "constant" if options.constant is None and options.power is None else None


def _warn_of_flat_maps(name: str) -> None:
    after = "after the walk the scores" if name == "walk_power" else "the maps"
    warnings.warn(
        f"with every {name} tried, each mask is all of one label: {after} hardly differ from pixel "
        "to pixel, or no image has tags; networks trained for too few steps give such scores",
        SegmendWarning,
        stacklevel=3,
    )


def _votes(
    options: MaskOptions,
    name: str,
    values: Sequence[float],
    cams: Path,
    items: TagFolder,
    affinity: AffinityNet | IRNet | None,
    progress: bool,
) -> list[float]:
    """What masks with each value of the setting `name` tell, up to 1; the mean over some images."""
    every = options.model_copy(update=NO_DOUBT)
    tried = [every.model_copy(update={name: value}) for value in values]
    step = max(1, len(items.names) // IMAGES)
    indices = range(0, len(items.names), step)[:IMAGES]
    rows = []
    for index in track(indices, description="how much is background", enabled=progress):
        file = read_cams(cams / f"{items.names[index]}.npz", num_tags=items.num_tags)
        image = items[index]["image"]
        colours = colour_clusters(image)
        masks = masks_of(tried, file, image, background=items.background, affinity=affinity)
        rows.append([mutual_information(colours, mask.labels > 0) for mask in masks])
    return [float(vote) for vote in steadied(np.array(rows))]


def steadied(information: NDArray[np.float64]) -> NDArray[np.float64]:
    """The votes of images (rows) for scores (columns): see above. Without images all are 0.

    Args:
        information: float (images, scores), from 0 up; an image where all is 0 has no vote.
    """
    most = information.max(axis=1, keepdims=True, initial=0)
    shares = (information / np.where(most > 0, most, 1)).sum(axis=0) / max(1, int((most > 0).sum()))
    around = np.pad(shares, 1, mode="edge")
    smooth: NDArray[np.float64] = around[:-2] / 4 + around[1:-1] / 2 + around[2:] / 4
    return smooth


def colour_clusters(image: Tensor, *, clusters: int = COLOURS, seed: int = 0) -> Tensor:
    """Which of an image's own colours each pixel has: int64 (H, W), from float (3, H, W)."""
    pixels = image.flatten(1).T.contiguous().numpy().astype(np.float32)
    generator = np.random.default_rng(seed)
    sample = pixels[generator.integers(len(pixels), size=min(SAMPLE, len(pixels)))]
    distinct = np.unique(sample, axis=0)
    if len(distinct) > clusters:
        # Sampled without k-means++, which divides by zero where most pixels are equal.
        start = distinct[generator.choice(len(distinct), clusters, replace=False)]
        distinct = kmeans2(sample, start, iter=8, minit="matrix")[0]
    nearest = torch.cdist(torch.from_numpy(pixels), torch.from_numpy(distinct)).argmin(1)
    return nearest.view(image.shape[1:])


def mutual_information(colours: Tensor, foreground: Tensor) -> float:
    """Mutual information of colour and foreground over pixels, in nats.

    Args:
        colours: int64 (H, W), counted from 0.
        foreground: bool (H, W).
    """
    table = torch.zeros(int(colours.max()) + 1, 2, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64).expand(colours.numel())
    table.index_put_((colours.flatten(), foreground.flatten().long()), one, accumulate=True)
    joint = table / table.sum()
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    seen = joint > 0
    found = float((joint[seen] * (joint[seen] / apart[seen]).log()).sum())
    return found if found > ROUNDING else 0.0


def _read(path: Path, name: str) -> float | None:
    """What an earlier run chose, if it chose this setting."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text("utf-8")).get(name)
    except (OSError, ValueError, AttributeError) as error:
        raise SegmendError(f"{path}: not readable ({error}); delete it to choose again") from error
    return None if value is None else float(value)
