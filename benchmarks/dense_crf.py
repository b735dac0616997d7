"""Claim about the dense CRF: the compiled library's result, in at most twice its time.

    python benchmarks/dense_crf.py [--repeats 5] [--out FILE.json]

Every row is one photograph with one of the published settings, measured in this run: `dense_crf`
of segmend (NumPy and SciPy, nothing to compile) and pydensecrf2 (C++), on the same energies, on one
thread. Agreement is taken over three photographs.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as compiled
import skimage.data
import skimage.transform
import torch
import torch.nn.functional as F
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.tags.dense_crf import CRF_SETTINGS, CrfSettings, dense_crf
from timing import fastest, finish

SIZES = ((213, 320), (375, 500))
CLASSES = (3, 5, 21)
PHOTOS = ("astronaut", "chelsea", "coffee")
NOTES = (
    "Milliseconds of processor time for one image (the first photograph), setting up the lattice "
    "included, the fastest of several runs taken in turn; one thread.",
    "difference: the largest between the two posteriors, over three photographs; changed: share "
    "of their pixels that get another class. Goals: ratio <= 2, difference < 1e-3, changed < 1e-3.",
    "The lattice is the same; the order of sums is not, and ten rounds of mean field magnify the "
    "last digit where classes are close to a tie.",
)


def photo(name: str, height: int, width: int) -> Tensor:
    """A photograph, float32 (3, height, width), on the grey levels that a file would have."""
    small = skimage.transform.resize(
        getattr(skimage.data, name)(), (height, width), anti_aliasing=True
    )
    return (torch.from_numpy(small).permute(2, 0, 1).float() * 255).round() / 255


def network_like(classes: int, height: int, width: int, seed: int) -> Tensor:
    """Probabilities (K, H, W): smooth regions, with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 6, 6, generator=generator)
    logits = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (2 * logits + 0.3 * torch.randn(logits.shape, generator=generator)).softmax(0)


def library(probs: Tensor, image: Tensor, settings: CrfSettings) -> np.ndarray:
    """The same by pydensecrf2."""
    classes, height, width = probs.shape
    field = compiled.DenseCRF2D(width, height, classes)
    energy = -probs.clamp(1e-5, 1).log().flatten(1).numpy()
    field.setUnaryEnergy(np.ascontiguousarray(energy))
    field.addPairwiseGaussian(sxy=settings.smooth_width, compat=settings.smooth_weight)
    field.addPairwiseBilateral(
        sxy=settings.colour_width,
        srgb=settings.colour_range,
        rgbim=(image * 255).round().byte().permute(1, 2, 0).contiguous().numpy(),
        compat=settings.colour_weight,
    )
    return np.array(field.inference(settings.iterations)).reshape(probs.shape)


def measure(name: str, size: tuple[int, int], classes: int, repeats: int) -> dict[str, Cell]:
    """One row: times, their ratio, and how far the results are apart."""
    settings = CRF_SETTINGS[name]
    images = [photo(each, *size) for each in PHOTOS]
    maps = [network_like(classes, *size, seed) for seed in range(len(PHOTOS))]
    largest, changed = 0.0, 0.0
    for probs, image in zip(maps, images, strict=True):
        ours = dense_crf(probs, image, settings=settings).numpy()
        theirs = library(probs, image, settings)
        largest = max(largest, float(np.abs(ours - theirs).max()))
        changed += float((ours.argmax(0) != theirs.argmax(0)).mean()) / len(PHOTOS)
    ms = fastest(
        {
            "ours": partial(dense_crf, maps[0], images[0], settings=settings),
            "theirs": partial(library, maps[0], images[0], settings),
        },
        repeats,
        clock=time.thread_time,
    )
    return {
        "settings": name,
        "size": f"{size[1]}x{size[0]}",
        "classes": classes,
        "iterations": settings.iterations,
        "segmend, ms": round(ms["ours"], 1),
        "pydensecrf2, ms": round(ms["theirs"], 1),
        "segmend / pydensecrf2": round(ms["ours"] / ms["theirs"], 2),
        "difference": float(f"{largest:.1e}"),
        "changed": float(f"{changed:.1e}"),
    }


def missed(row: dict[str, Cell]) -> list[str]:
    """Which goals a row misses."""
    goals = {
        "segmend / pydensecrf2 <= 2": float(row["segmend / pydensecrf2"] or 0) <= 2,
        "difference < 1e-3": float(row["difference"] or 0) < 1e-3,
        "changed < 1e-3": float(row["changed"] or 0) < 1e-3,
    }
    label = f"{row['settings']}, {row['size']}, {row['classes']} classes"
    return [f"{label}: {goal}" for goal, met in goals.items() if not met]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in CRF_SETTINGS:
        for size in SIZES:
            for classes in CLASSES:
                rows.append(measure(name, size, classes, options.repeats))
                print(rows[-1], file=sys.stderr)
    if options.out:
        command = f"python benchmarks/dense_crf.py --repeats {options.repeats}"
        write_outcome(options.out, name="dense_crf", command=command, rows=rows, notes=NOTES)
    finish([goal for row in rows for goal in missed(row)])


if __name__ == "__main__":
    main()
