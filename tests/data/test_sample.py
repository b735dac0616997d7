"""The bundled sample: complete, readable, small, credited, and disjoint in its two parts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from segmend.data.folders import SegmentationFolder
from segmend.data.sample import nuclei_sample


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_counts_and_kinds_are_as_the_licence_file_says() -> None:
    sample = nuclei_sample()
    index = json.loads(sample.index.read_text())
    counts = Counter((entry["part"], entry["kind"]) for entry in index.values())
    text = sample.licence.read_text(encoding="utf-8")
    for part, folder in (("fit", sample.fit_images), ("test", sample.test_images)):
        kinds = [counts[part, kind] for kind in ("fluorescence", "histology", "brightfield")]
        assert f"| {part} | {' | '.join(map(str, kinds))} |" in text
        assert names(folder) == sorted(k for k, entry in index.items() if entry["part"] == part)
    assert "BBBC038" in text
    assert "CC0" in text
    assert "Caicedo" in text


def test_every_item_reads_as_a_binary_pair_with_some_nuclei() -> None:
    sample = nuclei_sample()
    fit = SegmentationFolder(sample.fit_images, sample.fit_masks)
    test = SegmentationFolder(sample.test_images, sample.test_masks)
    assert (len(fit), len(test)) == (40, 20)
    for item in (*fit, *test):
        assert item["target"].unique().tolist() == [0, 1], item["name"]
        assert 0.0 < float(item["target"].float().mean()) < 0.9, item["name"]


def test_parts_share_no_picture_and_stay_small() -> None:
    sample = nuclei_sample()
    files = [p for p in sample.index.parent.rglob("*") if p.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    pictures = [p for p in files if p.suffix == ".jpg"]
    assert len({hashlib.sha256(p.read_bytes()).digest() for p in pictures}) == len(pictures) == 60
    assert not set(names(sample.fit_images)) & set(names(sample.test_images))
