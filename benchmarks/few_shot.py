"""Few-shot: does a refiner learned on some classes mend maps of classes that it never saw?

    python benchmarks/few_shot.py --data DIR     (DIR in the VOC layout, such as MSRC objects)

The base is a prototype segmenter on frozen ImageNet features. Refiners are fitted to episodes of
two thirds of the classes, on `train`; episodes of the held-out classes, on `test`, are scored.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from outcome import Cell, write_outcome
from segmend.data.voc import VOCFolder
from segmend.metrics import mean_iou_difference, pooled_iou_difference, region_counts
from segmend.models.segmenters import IMAGENET_MEAN, IMAGENET_STD
from segmend.models.squeezenet import SqueezeNetEncoder
from segmend.refine import RefineOptions
from segmend.refine.few_shot import Episodes, PrototypeSegmenter, fit_few_shot, segment_episode


class Features(nn.Module):
    """SqueezeNet's features at stride 8, images padded to a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SqueezeNetEncoder(depth=3)
        self.mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = (images - self.mean) / self.std
        x = nn.functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        deepest: Tensor = self.encoder(x)[-1]
        return deepest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (VOCFolder(options.data, split) for split in ("train", "test"))
    base = PrototypeSegmenter(Features())
    sides: dict[str, list[Tensor]] = {"base at 0.5": [], "base tuned": [], "refined": []}
    for seed in options.seeds:
        order = torch.randperm(15, generator=torch.Generator().manual_seed(seed)) + 1
        novel = sorted(order[:5].tolist())
        known = [c for c in range(1, 16) if c not in novel]
        shared = {"shots": options.shots, "count": options.episodes, "seed": seed}
        refine = RefineOptions(epochs=10, crop=160, seed=seed)
        refiner = fit_few_shot(base, Episodes(train, known, **shared), options=refine)
        print("seed", seed, "held out", novel, refiner.gate, flush=True)
        tuned = copy.copy(refiner)
        tuned.gate = refiner.gate.closed()
        used = dict(zip(sides, (None, tuned, refiner), strict=True))
        counts: dict[str, list[Tensor]] = {name: [] for name in sides}
        for episode in Episodes(test, novel, **shared):
            for name, one in used.items():
                mask = segment_episode(base, one, episode)
                counts[name].append(region_counts(mask[None], episode.target[None]))
        for name, found in counts.items():
            sides[name].append(torch.cat(found))
    rows: list[dict[str, Cell]] = []
    for name, difference in (
        ("pooled IoU", pooled_iou_difference),
        ("per-episode IoU", mean_iou_difference),
    ):
        at_half, base_counts, refined = (torch.stack(found) for found in sides.values())
        found = difference(base_counts, refined)
        rows.append(
            {
                "figure": name,
                "prototypes at 0.5": f"{100 * difference(base_counts, at_half).other:.1f}",
                "prototypes, threshold tuned": f"{100 * found.base:.1f}",
                "refined": f"{100 * found.other:.1f}",
                "difference": f"{100 * found.difference:+.1f} "
                f"[{100 * found.low:.1f}, {100 * found.high:.1f}]",
            }
        )
        print(rows[-1])
    if options.out:
        notes = [
            f"1 way, {options.shots} shots, {options.episodes} test episodes of 5 held-out classes "
            f"for each of {len(options.seeds)} seeds, which draw other classes. "
            "Thresholds are tuned on the known classes."
        ]
        command = (
            f"python benchmarks/few_shot.py --data {options.data.name} --shots {options.shots} "
            f"--episodes {options.episodes} --seeds {' '.join(map(str, options.seeds))}"
        )
        write_outcome(options.out, name="few_shot", command=command, rows=rows, notes=notes)


if __name__ == "__main__":
    main()
