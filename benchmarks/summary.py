"""What README and the methods' pages show: the few rows of other tables that tell the most.

    python benchmarks/summary.py --out benchmarks/results

From the outcomes in `benchmarks/results` alone, after the scripts that write them. A difference is
bold where its interval lies above 0; in parentheses the number of seeds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from outcome import Cell, write_outcome
from render import HERE, read_outcomes

RESULTS = HERE / "results"

Row = dict[str, Cell]
Tables = dict[str, list[Row]]
"""Outcome -> its rows."""

SETS = {
    "objects": "photos of objects (MSRC)",
    "21 classes": "photos, all 21 classes, no background (MSRC)",
    "scenes": "procedural scenes",
}
"""As the overviews name a set of images with tags -> as a stranger reads it."""

CONTEXT = {
    "crowded2d": "small targets among look-alikes (procedural, 2D), 1,000 steps",
    "crowded2dx2": "the same, 2,000 steps, trained to the end",
    "crowded3dx3": "procedural volumes",
    "kvasir": "polyps, from nothing, 20 epochs",
    "kvasirx2": "polyps, from nothing, 40 epochs",
    "kvasirfpn": "polyps, a good base from ImageNet's weights",
    "nuclei": "nuclei",
    "hippocampus": "hippocampus (3D)",
}
"""Ending of an outcome of `context_gain.py` -> its task."""

SPLITS = {
    "learned2-fast": "learned contexts",
    "kmeans2-foreground": "k-means",
    "dilate-foreground": "a ring",
}
"""Ways to split the background -> as the page names them."""

BASES = {
    "nuclei": "nuclei",
    "kvasir": "polyps",
    "roads": "roads in aerial images",
}
"""Ending of an outcome of `refine_gain.py` on well-trained bases -> what they segment."""

RATES = re.compile(r"([\d.]+) → ([\d.]+)")


def tags(found: Tables) -> Iterable[Row]:
    """Maps, segmenters and rectification with `cam++`, a column a set."""
    first = "from image tags (HFPL, OCR), mIoU"
    for words, kind in (
        ("activation maps, `cam` → `cam++`", "maps, test images"),
        (
            "segmenters trained on their masks",
            "a segmenter trained on them, test images",
        ),
    ):
        row: Row = {first: words}
        for name, title in SETS.items():
            each = one(found, "tags_overview", {"set": name, "recipe": "cam", "of": kind})
            added = gain(each["mIoU, difference"], each["seeds"])
            row[title] = f"{each['plain']} → {each['`++`']}, {added}"
        yield row
    both: list[Row] = [
        {first: "those of `cam++`: plain → with gate, rectification and masking by the gate"},
        {first: "their pixels of classes that the image does not hold"},
    ]
    for name, title in SETS.items():
        each = one(found, "rectified_overview", {"set": name, "masks of": "cam++"})
        added = gain(each["all, to plain"], each["seeds"])
        both[0][title] = f"{each['plain']} → {each['all']}, {added}"
        both[1][title] = RATES.sub(r"\1% → \2%", str(each["out of candidates, %"]))
    yield from both


def plus(found: Tables) -> Iterable[Row]:
    """A row a base method and kind of mask, a column a set: what `++` adds to it."""
    for kind in dict.fromkeys(row["of"] for row in found["tags_overview"]):
        for recipe in dict.fromkeys(row["recipe"] for row in found["tags_overview"]):
            row: Row = {"`++` over": f"`{recipe}`", "of": kind}
            for name, title in SETS.items():
                wanted = {"set": name, "recipe": recipe, "of": kind}
                for each in rows_like(found["tags_overview"], wanted):
                    row[title] = gain(each["mIoU, difference"], each["seeds"])
            if len(row) > 2:
                yield row


def rectified(found: Tables) -> Iterable[Row]:
    """A row a set and recipe as it is: gate, rectification and masking together."""
    for row in found["rectified_overview"]:
        if "," not in str(row["masks of"]):
            yield {
                "set": row["set"],
                "masks of": f"`{row['masks of']}`",
                "seeds": row["seeds"],
                "to plain": emphasised(row["all, to plain"]),
                "out of candidates, %": row["out of candidates, %"],
                "to plain, masked by a classifier's tags": emphasised(row["all, to masked"]),
                "rectification's own": emphasised(row["rectification's own"]),
            }


def context(found: Tables) -> Iterable[Row]:
    """A row a task: what each way to split the background in two adds to plain training."""
    for ending, task in CONTEXT.items():
        outcome = f"context_gain_{ending}"
        plain = one(found, outcome, {"method": "plain"})
        row: Row = {"from masks (CoLab), Dice": task, "plain": plain["dice"]}
        for method, title in SPLITS.items():
            for each in rows_like(found[outcome], {"method": method, "merge": "sum"}):
                row[title] = gain(each["dice difference"], each["seeds"])
        yield row


def refined(found: Tables) -> Iterable[Row]:
    """A row a well-trained base: the bias field behind its gate."""
    for ending, task in BASES.items():
        outcome = f"refine_gain_{ending}"
        for base in dict.fromkeys(row["base"] for row in found[outcome]):
            before = one(found, outcome, {"base": base, "method": "base, threshold tuned"})
            wanted = {"base": base, "method": "bias field with guide, gated"}
            after = one(found, outcome, wanted)
            yield {
                "from a model's maps (PatchRefineNet, bias field), IoU": f"{task}, {base}",
                "base": before["pooled IoU"],
                "refined behind the gate": gain(after["difference"], after["fits"]),
            }


TABLES = {
    "summary_tags": tags,
    "summary_plus": plus,
    "summary_rectified": rectified,
    "summary_context": context,
    "summary_refined": refined,
}


def gain(difference: Cell, seeds: Cell) -> str:
    """A difference and of how many seeds it is."""
    return f"{emphasised(difference)} ({seeds})"


def emphasised(difference: Cell) -> str:
    """The difference with its interval, bold if all of that lies above 0."""
    value, _, interval = str(difference).partition(" [")
    if interval and float(interval.split(",")[0]) > 0:
        return f"**{value}** [{interval}"
    return str(difference)


def rows_like(rows: list[Row], wanted: Mapping[str, Cell]) -> list[Row]:
    """The rows that have these cells."""
    return [row for row in rows if wanted.items() <= row.items()]


def one(found: Tables, outcome: str, wanted: Mapping[str, Cell]) -> Row:
    """The only row of an outcome that has these cells.

    Raises:
        ValueError: there is none, or more than one.
    """
    rows = rows_like(found[outcome], wanted)
    if len(rows) != 1:
        raise ValueError(f"{outcome}: {len(rows)} rows with {dict(wanted)}, want one")
    return rows[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = {name: outcome["rows"] for name, outcome in read_outcomes(options.results).items()}
    for name, make in TABLES.items():
        write_outcome(
            options.out / f"{name}.json",
            name=name,
            command="python benchmarks/summary.py",
            rows=list(make(found)),
            measured=False,
        )


if __name__ == "__main__":
    main()
