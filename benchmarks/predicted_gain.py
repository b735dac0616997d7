"""Does the diagnosis predict what an add-on gains? Predicted on val, measured on test, by rank.

Pairs of model and data set come from the gain tables' runs: refiners of `refine_gain.py`, context
labels of `context_gain.py` on its flat sets (`--data` as there), rectification of `tags_gain.py`
from its records. A pair's own outcome is left out of the shares that its prediction is discounted
by. A pair whose runs are not here keeps the row that it has in `--out`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from scipy.stats import spearmanr

from context_gain import BEST
from outcome import Cell, write_outcome
from predicted_pairs import Found, context_pairs, rectify_pairs, refine_pairs
from segmend.diagnose.recovered import FEW, PAIRS, TRUST, Pair
from segmend.diagnose.verdict import expected_gain


def table(found: list[Found]) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for one in found:
        rest = [other.pair for other in found if other.addon == one.addon and other is not one]
        known = {"pairs": rest, "affected": one.pair.affected}
        low, expected, high = expected_gain(one.addon, one.limits, one.trial, **known)
        without = expected_gain(one.addon, one.limits, None, **known)[1]
        rows.append(
            {
                "pair": one.pair.name,
                "add-on": one.addon,
                "patch oracle": points(one.patches),
                "reachable": points(one.pair.reachable),
                "pixels": points(one.pair.affected),
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
    parser.add_argument("--contexts", type=Path, default=Path("runs/context_gain"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        *refine_pairs(options.runs),
        *context_pairs(options.contexts, options.data),
        *rectify_pairs(),
    ]
    rows = [*kept_rows(options.out, {one.pair.name for one in found}), *table(found)]
    rows.sort(key=lambda row: list(PAIRS).index(str(row["add-on"])))
    notes = [
        "Points of pooled IoU. Predicted on val by the diagnosis, gained on test over the base at "
        "its tuned threshold, mean over fits.",
        f"context: {BEST} of the context table against plain training, both at the threshold that "
        "is best on val. With fewer than three other pairs to learn a share from, a quarter is "
        "predicted.",
        "rectify: mIoU of segmenters with gate, rectification and masking by the gate against "
        "plain ones on the same pseudo-masks; reachable: with the true tags; pixels: out of "
        f"candidates on val, in percent. Shares come from pairs on the same side of {FEW:.0%}, a "
        "limit that was set with all of them in view but those of ++ with trust.",
        "Predicted: the dry run times what the other pairs' dry runs came to; share alone: the "
        "reachable gain times what the other pairs recovered, which is what is left without "
        "images.",
        f"Dry runs are trusted as if one that promised {100 * TRUST:g} points had kept it; this "
        "weight was chosen with these nine pairs in view, new ones are to confirm it.",
    ]
    refined = [row for row in rows if row["add-on"] == "refine"]
    for of, some in (("refiners", refined), ("all", rows)):
        for gained in ("gained, gated", "gained, always on"):
            ranks = "; ".join(
                f"{name} {correlation(some, name, gained)}"
                for name in ("predicted", "dry run", "reachable", "patch oracle", "share alone")
            )
            notes.append(f"Rank correlation of {of} with “{gained}”: {ranks}.")
    print(*rows, *notes, sep="\n")
    for one in found:
        pair = one.pair
        now = Pair(
            pair.name,
            round(pair.reachable, 4),
            round(pair.gained, 4),
            rounded(pair.tried),
            rounded(pair.affected),
        )
        if now not in PAIRS[one.addon]:
            print(f"segmend/diagnose/recovered.py is out of date; of {one.addon} it wants {now}")
    if options.out is not None:
        command = "python benchmarks/predicted_gain.py"
        write_outcome(options.out, name="predicted_gain", command=command, rows=rows, notes=notes)


def kept_rows(out: Path | None, found: set[str]) -> list[dict[str, Cell]]:
    """Rows of the file that is to be written whose runs are not here any more.

    Those of rectification come from records, which are all here.
    """
    if out is None or not out.exists():
        return []
    rows: list[dict[str, Cell]] = json.loads(out.read_text("utf-8"))["rows"]
    return [row for row in rows if row["pair"] not in found and row["add-on"] != "rectify"]


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
