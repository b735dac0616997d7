"""A diagnosis as HTML, JSON, CSV, DataFrame and in a notebook, and read back."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_diagnosis import FIXES, Discs, made_diagnosis, many_classes, rows_of

from segmend.diagnose.result import Diagnosis
from segmend.diagnose.save import load, repr_html, save, to_csv, to_dataframe, to_json
from segmend.errors import SegmendError


def same(a: Diagnosis, b: Diagnosis) -> bool:
    """Equal, with NaN equal to NaN."""
    return repr(replace(a, cases=None)) == repr(replace(b, cases=None))


@pytest.mark.parametrize("made", [made_diagnosis(8), many_classes()], ids=["binary", "many"])
def test_json_reads_back_as_it_was(made: Diagnosis, tmp_path: Path) -> None:
    path = save(made, tmp_path / "new" / "report.json")
    assert same(load(path), made)
    assert load(path).cases is None


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5, unique=True))
def test_any_name_reads_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    names = [name.encode("utf-8", "replace").decode("utf-8") for name in names]
    made = made_diagnosis(names=tuple(names), cases=False)
    path = tmp_path_factory.mktemp("json") / "a.json"
    assert same(load(save(made, path)), made)


def test_json_holds_no_nan() -> None:
    made = made_diagnosis(8)
    assert any(math.isnan(row.score) for row in made.images)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    content = json.loads(to_json(made), parse_constant=refuse)
    assert content["images"][5]["score"] is None
    assert "cases" not in content


def test_csv_has_a_row_an_image(tmp_path: Path) -> None:
    made = made_diagnosis(8)
    path = save(made, tmp_path / "images.csv")
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["name"] for row in found] == [row.name for row in made.images]
    assert float(found[3]["score"]) == made.images[3].score
    assert found[5]["score"] == ""
    for fix in FIXES:
        assert float(found[2][f"gain:{fix.key}"]) == made.images[2].gains[fix.key]


def test_csv_starts_no_formula() -> None:
    names = ("=1+1", "@x", "a,b", 'quote"', "line\nbreak")
    lines = list(csv.DictReader(to_csv(made_diagnosis(names=names)).splitlines(keepends=True)))
    found = [row["name"] for row in lines]
    assert found == ["'=1+1", "'@x", "a,b", 'quote"', "line\nbreak"]


def test_dataframe_has_the_same_rows() -> None:
    made = made_diagnosis(8)
    frame = to_dataframe(made)
    assert len(frame) == 8
    assert list(frame["name"]) == [row.name for row in made.images]
    assert frame["score"].dtype == float
    assert frame["gain:missed"].sum() == pytest.approx(
        sum(row.gains["missed"] for row in made.images)
    )
    assert len(to_dataframe(replace(made, images=())).columns) == len(frame.columns)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match=r"report\.pdf: want a name that ends in \.html"):
        save(made_diagnosis(1), tmp_path / "report.pdf")


def test_nothing_half_written(tmp_path: Path) -> None:
    made = made_diagnosis(3)
    path = tmp_path / "report.html"
    path.write_text("what was there", "utf-8")

    class Broken(Discs):
        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            raise SegmendError("img_2.png: cannot be read")

    with pytest.raises(SegmendError, match=r"img_2\.png"):
        save(replace(made, cases=Broken(("a", "b", "c"))), path)
    assert path.read_text("utf-8") == "what was there"
    assert os.listdir(tmp_path) == ["report.html"]


def broken(change: dict[str, object]) -> str:
    return json.dumps({**json.loads(to_json(made_diagnosis(2))), **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "want a report.json"),
        ("[]", "report: want an object"),
        ("{}", "'setting' is missing"),
        (broken({"fixes": 3}), "report.fixes: want"),
        (broken({"score": {"pooled": "a"}}), "report.score: 'low' is missing"),
        (broken({"sizes": [{}]}), r"report.sizes\[0\]: 'smallest' is missing"),
        (broken({"bias": {"error": 1}}), "report.bias"),
        (broken({"confusion": [["a"]]}), r"report.confusion\[0\]\[0\]: want int, got 'a'"),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, "utf-8")
    with pytest.raises(SegmendError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegmendError, match=r"none\.json: cannot be read"):
        load(tmp_path / "none.json")


def test_the_notebook_summary_is_small_and_inert() -> None:
    evil = "<script>alert(1)</script>"
    fix = replace(FIXES[3], title=evil)
    made = made_diagnosis(5)
    made = replace(
        made,
        fixes=(fix,),
        images=rows_of(("a",), (fix,)),
        verdict=replace(made.verdict, headline=evil),
    )
    text = repr_html(made)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 2
    assert "74.2" in text
    assert len(repr_html(made_diagnosis(500))) < 6000
    assert "http" not in text
