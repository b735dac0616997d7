"""Does the diagnosis predict what an add-on gains? Predicted on val, measured on test, by rank.

Pairs of model and data set come from the gain tables' runs (`refine_gain.py`), and of other add-ons
from JSON files: a list of {"pair": ..., "addon": ..., "predicted": ..., "gained": ...}, gains in
score. A pair's own outcome is left out of the shares that its prediction is discounted by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor

from outcome import Cell, write_outcome
from segmend.diagnose.decompose import measure
from segmend.diagnose.dry_run import guided_dry_run
from segmend.diagnose.reading import TensorCases
from segmend.diagnose.recovered import REFINE, TRUST, Pair
from segmend.diagnose.verdict import expected_gain, reachable_gain

GATED, OPEN = "bias field with guide, gated", "bias field with guide, always on"
TUNED = "base, threshold tuned"


@dataclass(frozen=True)
class Found:
    """What one pair's diagnosis said, and what the refiner gained (points are not used here)."""

    pair: Pair
    limits: tuple[float, float, float]
    always_on: float
    patches: float
    fits: int
    trial: object


def refine_pairs(runs: Path) -> Iterator[Found]:
    for run in sorted(runs.glob("*-*-*")):
        tuned = run / "baselines" / "counts" / "base,_threshold_tuned.pt"
        counts = [load(path) for path in sorted(run.glob("fit-*/counts/*.pt"))]
        gated = [one for one in counts if one["method"] == GATED]
        if not (run / "maps.pt").exists() or not tuned.exists() or not gated:
            continue
        base = pooled(load(tuned)["regions"])
        always = [one for one in counts if one["method"] == OPEN]
        val = torch.load(run / "maps.pt", weights_only=True)["maps"]["val"]
        cases = TensorCases(
            [logits.float().sigmoid() for _, logits, _, _ in val],
            [labels.long() for _, _, labels, _ in val],
            images=[image.float() / 255 for *_, image in val],
            names=[name for name, *_ in val],
        )
        diagnosis = measure(cases)
        trial = guided_dry_run(cases, threshold=diagnosis.setting.threshold)
        limits = reachable_gain(diagnosis.fixes, "refine")
        yield Found(
            pair=Pair(
                name=run.name,
                reachable=limits[1],
                gained=mean(pooled(one["regions"]) - base for one in gated),
                tried=None if trial is None else trial.gain,
            ),
            limits=limits,
            always_on=mean(pooled(one["regions"]) - base for one in always),
            patches=max(f.gain for f in diagnosis.fixes if f.key.startswith("patch-")),
            fits=len(gated),
            trial=trial,
        )


def load(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def pooled(regions: Tensor) -> float:
    """IoU of the foreground of counts (N, 2, 3) added over images."""
    tp, fp, fn = regions[:, 1].sum(0).tolist()
    return tp / (tp + fp + fn)


def mean(values: Iterator[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")


def table(found: list[Found], others: list[dict[str, object]]) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for one in found:
        rest = [other.pair for other in found if other is not one]
        low, expected, high = expected_gain("refine", one.limits, one.trial, pairs=rest)
        without = expected_gain("refine", one.limits, None, pairs=rest)[1]
        rows.append(
            {
                "pair": one.pair.name,
                "add-on": "refine",
                "patch oracle": points(one.patches),
                "reachable": points(one.pair.reachable),
                "dry run": points(one.pair.tried),
                "share alone": points(without),
                "predicted": points(expected),
                "from": points(low),
                "to": points(high),
                "gained, gated": points(one.pair.gained),
                "gained, always on": points(one.always_on),
                "fits": one.fits,
            }
        )
    for other in others:
        empty: dict[str, Cell] = dict.fromkeys(rows[0] if rows else ())
        predicted, gained = float(str(other["predicted"])), float(str(other["gained"]))
        mine: dict[str, Cell] = {
            "pair": str(other["pair"]),
            "add-on": str(other["addon"]),
            "predicted": points(predicted),
            "gained, gated": points(gained),
            "gained, always on": points(gained),
        }
        rows.append({**empty, **mine})
    return rows


def points(gain: float | None) -> float | None:
    return None if gain is None else round(100 * gain, 2)


def correlation(rows: list[dict[str, Cell]], predicted: str, gained: str) -> str:
    """Spearman's rank correlation over the rows that have both figures."""
    pairs = [(r[predicted], r[gained]) for r in rows if None not in (r[predicted], r[gained])]
    if len(pairs) < 3 or any(len({pair[i] for pair in pairs}) < 2 for i in (0, 1)):
        return "not defined"
    result = spearmanr(*zip(*pairs, strict=True))
    return f"{result.statistic:+.2f} (p = {result.pvalue:.2f}, {len(pairs)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/refine_gain"))
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="of other add-ons")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = list(refine_pairs(options.runs))
    others = [row for path in options.pairs for row in json.loads(path.read_text("utf-8"))]
    rows = table(found, others)
    notes = [
        "Points of pooled IoU. Predicted on val by the diagnosis, gained on test by the refiner "
        "over the base at its tuned threshold, mean over fits.",
        "Predicted: the dry run times what the other pairs' dry runs came to; share alone: the "
        "reachable gain times what the other pairs recovered, which is what is left without "
        "images.",
        f"Dry runs are trusted as if one that promised {100 * TRUST:g} points had kept it; this "
        "weight was chosen with these nine pairs in view, new ones are to confirm it.",
    ]
    for gained in ("gained, gated", "gained, always on"):
        ranks = "; ".join(
            f"{name} {correlation(rows, name, gained)}"
            for name in ("predicted", "dry run", "reachable", "patch oracle", "share alone")
        )
        notes.append(f"Rank correlation with “{gained}”: {ranks}.")
    print(*rows, *notes, sep="\n")
    current = tuple(
        Pair(p.name, round(p.reachable, 4), round(p.gained, 4), rounded(p.tried))
        for p in (one.pair for one in found)
    )
    if current != REFINE:
        print("segmend/diagnose/recovered.py is out of date; REFINE should hold:")
        print(*(f"    {pair}," for pair in current), sep="\n")
    if options.out is not None:
        command = "python benchmarks/predicted_gain.py"
        write_outcome(options.out, name="predicted_gain", command=command, rows=rows, notes=notes)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
