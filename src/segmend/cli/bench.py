"""`segmend bench`: run the benchmark scripts of a source checkout and fill their tables."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import typer
import yaml
from pydantic import BaseModel, ConfigDict

from segmend.cli.settings import print_settings, resolve, write_run_record
from segmend.errors import SegmendError


class Benchmark(BaseModel):
    """One entry of `suite.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    script: str
    arguments: tuple[str, ...] = ()
    minutes: float = 1
    quick: bool = True


class BenchOptions(BaseModel):
    """Which benchmarks to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    only: tuple[str, ...] = ()
    slow: bool = False


def bench(
    folder: Path = typer.Option(
        Path("benchmarks"), "--from", help="The benchmarks folder of a source checkout."
    ),
    out: Path | None = typer.Option(
        None, "--out", help="Where outcomes go [default: its results/, and docs/]."
    ),
    only: list[str] = typer.Option([], "--only", help="Names to run; repeatable."),
    slow: bool | None = typer.Option(None, "--slow/--quick", help="Run the slow ones as well."),
    recipe: Path | None = typer.Option(None, "--recipe", help="YAML file with settings."),
    sets: list[str] = typer.Option([], "--set", help="key=value; repeatable."),
) -> None:
    """Measure this project's claims on this machine.

    Runs the scripts that benchmarks/suite.yaml names, each in a process of its own, writes what
    each measured as JSON, and fills the tables of the documentation from them.
    """
    options = resolve(BenchOptions, recipe, sets, {"only": tuple(only) or None, "slow": slow})
    print_settings(options, title="bench")
    suite = read_suite(folder)
    chosen = choose(suite, options)
    results = out or folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    failed = [name for name, item in chosen.items() if not _run(name, item, folder, results)]
    _render(folder, results, over_docs=out is None)
    if out is not None:
        write_run_record(out, "bench", options)
    if failed:
        raise SegmendError(f"these benchmarks failed or missed their goal: {', '.join(failed)}")


def read_suite(folder: Path) -> dict[str, Benchmark]:
    """The benchmarks that `folder/suite.yaml` names."""
    path = folder / "suite.yaml"
    if not path.is_file():
        raise SegmendError(
            f"{path}: not found; the benchmarks are in the source repository, not in the "
            "installed package: run this in a checkout, or give --from CHECKOUT/benchmarks"
        )
    entries = yaml.safe_load(path.read_text("utf-8")) or {}
    return {name: Benchmark.model_validate(entry) for name, entry in entries.items()}


def choose(suite: dict[str, Benchmark], options: BenchOptions) -> dict[str, Benchmark]:
    """Those asked for by name, else the quick ones, else all."""
    unknown = sorted(set(options.only) - suite.keys())
    if unknown:
        raise SegmendError(f"--only {unknown[0]}: unknown; known: {', '.join(sorted(suite))}")
    if options.only:
        return {name: suite[name] for name in options.only}
    return {name: item for name, item in suite.items() if item.quick or options.slow}


def _run(name: str, item: Benchmark, folder: Path, results: Path) -> bool:
    typer.echo(f"{name}: about {item.minutes:g} min ...")
    start = time.perf_counter()
    outcome = (results / f"{name}.json").resolve()
    command = [sys.executable, str(folder / item.script), *item.arguments, "--out", str(outcome)]
    done = subprocess.run(command, check=False)
    word = "done" if done.returncode == 0 else f"exited with {done.returncode}"
    typer.echo(f"{name}: {word} after {time.perf_counter() - start:.0f} s")
    return done.returncode == 0


def _render(folder: Path, results: Path, *, over_docs: bool) -> None:
    target = [] if over_docs else ["--out", str(results)]
    command = [sys.executable, str(folder / "render.py"), "--results", str(results), *target]
    subprocess.run(command, check=True)
