"""Claim: `import segmend` costs < 1 s on top of `import torch`; `--help` never imports torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from outcome import write_outcome

HELP = "import sys; sys.argv = ['segmend', '--help']; from segmend.cli.main import main; main()"
WITNESS = f"""
import sys
try:
    exec({HELP!r})
except SystemExit:
    pass
sys.exit(int('torch' in sys.modules))
"""
PROGRAMS = {
    "python, nothing imported": "pass",
    "import torch": "import torch",
    "import torch, segmend": "import torch, segmend",
    "import torch, then segmend.Refiner": "import torch, segmend; segmend.Refiner",
    "import segmend": "import segmend",
    "segmend --help": HELP,
}


def run(program: str) -> tuple[float, int]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start, done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/import_time.json"))
    options = parser.parse_args()
    # Interleaved, so that a busy moment of the machine hits all programs alike; then the minimum.
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(options.repeats):
        for name, program in PROGRAMS.items():
            took, status = run(program)
            if status:
                print(f"{name}: exited with {status}", file=sys.stderr)
                return 1
            seconds[name].append(took)
    best = {name: min(values) for name, values in seconds.items()}
    extra = best["import torch, segmend"] - best["import torch"]
    torch_free = run(WITNESS)[1] == 0
    rows = [{"program": name, "seconds": round(value, 3)} for name, value in best.items()]
    notes = [
        f"`import segmend` on top of `import torch`: {extra:+.3f} s (goal: below 1 s).",
        f"`segmend --help` imports torch: {'no' if torch_free else 'YES'} (goal: no).",
        f"Wall time of a whole process, minimum of {options.repeats} runs.",
    ]
    write_outcome(
        options.out,
        name="import_time",
        command=f"python benchmarks/import_time.py --repeats {options.repeats}",
        rows=rows,
        notes=notes,
    )
    print("\n".join(notes))
    return int(extra >= 1 or not torch_free)


if __name__ == "__main__":
    sys.exit(main())
