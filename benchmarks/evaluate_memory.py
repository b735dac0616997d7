"""Claim: `segmend evaluate` needs at most 200 MB more for 5,000 images than for 50."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from outcome import Cell, write_outcome

LIMIT_MB = 200
SIDES = (64, 128)  # of the images, drawn at random in between
# The process reports its own peak: a parent's view would include whatever else it started.
PROGRAM = """
import resource, sys
from segmend.cli.main import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
"""


def write_set(folder: Path, count: int) -> None:
    """Masks of one ellipse, two slightly shifted predictions and their 16-bit maps."""
    generator = np.random.default_rng(0)
    for name in ("masks", "a", "b", "maps_a", "maps_b"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        height, width = generator.integers(*SIDES, size=2, endpoint=True)
        y, x = np.mgrid[:height, :width]
        centre, radii = generator.uniform(0.3, 0.7, 2), generator.uniform(0.1, 0.3, 2)
        for name, shift in (("masks", 0.0), ("a", 0.01), ("b", 0.03)):
            far = ((y / height - centre[0] - shift) / radii[0]) ** 2
            far += ((x / width - centre[1] + shift) / radii[1]) ** 2
            mask = (far < 1).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / name / f"{index}.png", compress_level=1)
            if name != "masks":
                level = (65535 / (1 + np.exp(4 * (far - 1)))).astype(np.uint16)
                path = folder / f"maps_{name}" / f"{index}.png"
                Image.fromarray(level).save(path, compress_level=1)


def measure(folder: Path, words: list[str]) -> tuple[float, float]:
    """Peak memory in MB and seconds of one `segmend evaluate` in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, "evaluate", "--no-progress", "--masks", "masks"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *words, "--out", "scores.json", "--out", "scores.csv"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"segmend evaluate failed:\n{done.stderr}")
    return int(done.stderr.split()[-1]) / 1e6, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--many", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluate_memory.json"))
    options = parser.parse_args()
    inputs = {
        "hard masks": ["--pred", "a", "--against", "b"],
        "16-bit probability maps": ["--probs", "maps_a", "--against", "maps_b"],
    }
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory() as temporary:
        sets = {count: Path(temporary) / str(count) for count in (options.few, options.many)}
        for count, folder in sets.items():
            write_set(folder, count)
        for kind, words in inputs.items():
            few, many = (measure(folder, words) for folder in sets.values())
            rows.append(
                {
                    "input, with --against": kind,
                    f"peak MB, {options.few} images": round(few[0]),
                    f"peak MB, {options.many} images": round(many[0]),
                    "difference MB": round(many[0] - few[0]),
                    "ms an image": round(
                        1000 * (many[1] - few[1]) / (options.many - options.few), 1
                    ),
                }
            )
            print(rows[-1])
    worst = max(int(str(row["difference MB"])) for row in rows)
    notes = [
        f"Largest difference: {worst} MB (goal: at most {LIMIT_MB} MB).",
        f"Images of {SIDES[0]} to {SIDES[1]} pixels a side; all metrics, both predictions, "
        "intervals, JSON and CSV; peak resident set of a process of its own.",
    ]
    command = f"python benchmarks/evaluate_memory.py --few {options.few} --many {options.many}"
    write_outcome(options.out, name="evaluate_memory", command=command, rows=rows, notes=notes)
    print("\n".join(notes))
    return int(worst > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
