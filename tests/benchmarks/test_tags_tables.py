"""Tables of masks from tags: which training of a seed stands where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

MASKS, SEGMENTER = "masks, train", "segmenter, test"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    import records
    import tags_tables

    yield tags_tables, records
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def counts(right: int) -> dict[str, torch.Tensor]:
    """Of one image with two classes of ten pixels, so many of each right, and outlines so, too."""
    return {
        "region": torch.tensor([[[right, 10 - right, 10 - right]] * 2]),
        "boundary": torch.tensor([[[right, 10, right, 10]] * 2]),
    }


def add(records: Any, folder: Path, run: str, right: int, variants: tuple[str, ...]) -> None:
    """A training's record and those of the segmenters on its masks."""
    scores = {"mean_iou": right / 10, **counts(right)}
    records.keep_record(folder / f"{run}{records.SUFFIX}", {"scores": {MASKS: scores}})
    seed = run.rpartition("-")[2]
    for name in variants:
        read = {**counts(right), "behind": torch.tensor([[10, 20]])}
        path = folder / run / f"{name.replace(' ', '_')}-{seed}{records.SUFFIX}"
        records.keep_record(path, {"test": {"plain": read, "own, keep": read}})


def right_of(run: Any) -> int:
    return int(run["test"]["plain"]["region"][0, 0, 0])


def test_gates_stand_beside_the_plain_segmenter_of_their_own_training(
    tmp_path: Path, modules: tuple[Any, Any]
) -> None:
    tags_tables, records = modules
    gates = ("flat", "gate", tags_tables.RECTIFIED[1])
    add(records, tmp_path, "seam-0", 1, ("flat",))
    add(records, tmp_path, "seam++-0", 2, ("flat",))
    add(records, tmp_path, "seam, again-0", 3, ("flat",))
    add(records, tmp_path, "seam++, again-0", 4, gates)
    add(records, tmp_path, "seam-1", 5, ("flat",))
    add(records, tmp_path, "seam++-1", 6, gates)
    runs, kept = tags_tables.collect_runs(tmp_path, "SegmentationClass")

    # What ++ gains is of the first training...
    first = runs["seam++"][0]["scores"]
    assert int(first[MASKS]["region"][0, 0, 0]) == 2
    assert int(first[SEGMENTER]["region"][0, 0, 0]) == 2
    assert int(runs["seam++, again"][0]["scores"][SEGMENTER]["region"][0, 0, 0]) == 4
    # ... and what gates gain of the second, where there is one.
    assert "seam++, again" not in kept
    for variant in gates:
        assert {s: right_of(run) for s, run in kept["seam++"][variant].items()} == {0: 4, 1: 6}
    before = tags_tables.plain_segmenters("seam++", kept)
    assert {seed: right_of(run) for seed, run in before.items()} == {0: 3, 1: 5}
    # A variant of the recipe was measured beside the first.
    variant = tags_tables.plain_segmenters("seam++, from ImageNet", kept)
    assert {seed: right_of(run) for seed, run in variant.items()} == {0: 1, 1: 5}
