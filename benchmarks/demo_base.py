"""Train the base that `segmend demo` ships: SqueezeNet + FPN on the train split of BBBC038 nuclei.

    python benchmarks/demo_base.py --data DIR

`DIR/{train,val}/{images,masks}`. The epoch is chosen on those val images that the bundled sample
does not hold; no test image is looked at. Weights are kept in float16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from segmend.data.folders import SegmentationFolder
from segmend.data.sample import nuclei_sample
from segmend.engine.crops import ItemSet
from segmend.engine.prediction import Part
from segmend.engine.training import TrainOptions, train_segmenter
from segmend.models.segmenters import build_segmenter


def selection_images(val: SegmentationFolder, most: int) -> ItemSet:
    """Every other val image that the sample does not hold, `most` of them at most."""
    held = {p.stem for p in nuclei_sample().fit_images.iterdir()}
    rest = [i for i in range(len(val)) if val.matches[i].name not in held]
    return Part(val, rest[:: max(1, len(rest) // most)][:most])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_base"))
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    torch.manual_seed(0)
    sets = {
        s: SegmentationFolder(options.data / s / "images", options.data / s / "masks")
        for s in ("train", "val")
    }
    result = train_segmenter(
        build_segmenter("fpn"),
        sets["train"],
        selection_images(sets["val"], most=24),
        options=TrainOptions(epochs=options.epochs, crop=128, batch_size=8, threads=1),
        out=options.out,
    )
    print(result.checkpoint, result.best)


if __name__ == "__main__":
    main()
