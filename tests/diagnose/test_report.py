"""What the report chooses, draws and embeds, without a browser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_diagnosis import FIXES, Discs, made_diagnosis, many_classes, names_of, rows_of
from PIL import Image

from segmend.diagnose.case import Case
from segmend.diagnose.report.comparison import compare
from segmend.diagnose.report.gallery import gallery
from segmend.diagnose.report.html import render_html
from segmend.diagnose.report.payload import STEP, histogram, script_json, table
from segmend.diagnose.report.pictures import draw, encode, error_picture, flat
from segmend.diagnose.report.ranking import family_gain, main_fix, worst_images
from segmend.diagnose.report.words import interval, p_value, percent, points, sentences, whole
from segmend.diagnose.result import ImageRow
from segmend.errors import SegmendError
from segmend.plot import FALSE_NEGATIVE, FALSE_POSITIVE

EVIL = "</script><!--<script>\u2028&amp;]]>"


def embedded(page: str) -> dict:
    """The data that the page's scripts read, found as a browser finds it."""
    found = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page)
    assert len(found) == 1
    return json.loads(found[0])


class Scripts(HTMLParser):
    """Counts elements as an HTML parser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "action", "data")]


def parsed(page: str) -> Scripts:
    found = Scripts()
    found.feed(page)
    return found


@given(
    st.recursive(
        st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )
)
def test_embedded_json_is_what_went_in_and_ends_no_script(content: object) -> None:
    text = script_json({"content": content, "evil": EVIL})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"content": content, "evil": EVIL}


def test_what_is_no_number_is_null() -> None:
    assert json.loads(script_json((math.nan, math.inf, 1.5))) == [None, None, 1.5]


@given(st.floats(-1, 1))
def test_points_have_a_sign_unless_zero(value: float) -> None:
    text = points(value)
    number = float(text.replace("−", "-"))
    assert number == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert text[0] in "+−" if number else text == "0.0"


def test_numbers_in_words() -> None:
    assert (percent(0.7421), percent(math.nan), percent(None)) == ("74.2", "–", "–")
    assert (whole(1234567), interval(-0.01, 0.02)) == ("1,234,567", "−1.0 to +2.0")
    assert (p_value(0.0002), p_value(0.25)) == ("p < 0.001", "p = 0.25")
    assert sentences("One gains 2.5 points [0.1, 3.2]. And more.") == (
        "One gains 2.5 points [0.1, 3.2].", "And more.",
    )  # fmt: skip
    assert sentences("One sentence.") == ("One sentence.", "")


def test_the_main_error_is_the_best_beyond_chance() -> None:
    fixes = (replace(FIXES[0], key="a", chance=0.3), replace(FIXES[0], key="b", chance=None))
    assert main_fix(ImageRow(0, "x", 0.5, {"a": 0.4, "b": 0.2}), fixes) == 1
    assert main_fix(ImageRow(0, "x", 0.5, {"a": 0.6, "b": 0.2}), fixes) == 0
    assert main_fix(ImageRow(0, "x", 0.5, {"a": 0.1, "b": 0.0}), fixes) is None
    assert main_fix(ImageRow(0, "x", 0.5, {"a": math.nan}), fixes) is None


@given(st.integers(0, 40), st.integers(1, 50))
def test_the_worst_images_are_worst_of_something(count: int, size: int) -> None:
    made = replace(made_diagnosis(1, cases=False), images=rows_of(names_of(size)))
    picks = worst_images(made, count)
    assert len({pick.position for pick in picks}) == len(picks) <= count
    scores = [made.images[pick.position].score for pick in picks]
    known = [score for score in scores if math.isfinite(score)]
    assert known == sorted(known)
    if count and any(math.isfinite(row.score) for row in made.images):
        assert min(known) == min(r.score for r in made.images if math.isfinite(r.score))
    for pick in picks:
        assert pick.overall or pick.kinds
        for family, gain in pick.kinds.items():
            own = family_gain(made.images[pick.position], made.fixes, family)
            assert gain == own > 0
            better = sum(family_gain(row, made.fixes, family) > gain for row in made.images)
            assert better < count


def test_an_image_without_error_is_in_no_gallery() -> None:
    rows = (ImageRow(0, "perfect", math.nan, {}), ImageRow(1, "bad", 0.1, {}))
    picks = worst_images(replace(made_diagnosis(2), images=rows), 10)
    assert [pick.position for pick in picks] == [1]


def test_errors_have_their_colours() -> None:
    truth = torch.tensor([[1, 1, 0, 0, 1]])
    found = torch.tensor([[1, 0, 1, 0, 0]])
    valid = torch.tensor([[True, True, True, True, False]])
    picture = error_picture(Case("x", found, truth, valid))
    for column, colour in ((1, FALSE_NEGATIVE), (2, FALSE_POSITIVE)):
        wanted = 0.2 * 0.5 + 0.8 * torch.tensor(colour) / 255
        torch.testing.assert_close(picture[:, 0, column], wanted)
    torch.testing.assert_close(picture[:, 0, 3], torch.full((3,), 0.5))  # right: bare
    assert not torch.allclose(picture[:, 0, 4], picture[:, 0, 1])  # ignored: no error


def test_a_wrong_class_is_neither_extra_nor_missed() -> None:
    ones = torch.ones(1, 3, dtype=torch.long)
    case = Case("x", torch.tensor([[2, 1, 0]]), ones, ones.bool())
    colours = error_picture(case)[:, 0].T.tolist()
    assert len({tuple(colour) for colour in colours}) == 3


@pytest.mark.parametrize(("height", "width"), [(30, 50), (300, 100), (1000, 700), (1, 900)])
def test_pictures_fit_and_keep_their_shape(height: int, width: int) -> None:
    picture = encode(torch.rand(3, height, width), side=256)
    assert max(picture.width, picture.height) <= 256
    opened = Image.open(io.BytesIO(picture.data))
    assert opened.size == (picture.width, picture.height)
    scale = picture.width / width
    assert picture.height == pytest.approx(max(1, scale * height), abs=1)
    head, _, body = picture.uri().partition(",")
    assert head == f"data:{picture.media_type};base64"
    assert base64.b64decode(body) == picture.data


def test_thin_errors_survive_reduction() -> None:
    line = torch.zeros(3, 1200, 1200)
    line[:, 600] = 1
    reduced = Image.open(io.BytesIO(encode(line, side=300).data))
    assert np.asarray(reduced).max() > 40


def test_small_pictures_are_not_blurred() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    picture = encode(board.expand(3, 8, 8).float(), side=64)
    pixels = np.asarray(Image.open(io.BytesIO(picture.data)).convert("L"))
    assert pixels.shape == (64, 64)
    assert np.abs(pixels.astype(int) - 255 * np.kron(board, np.ones((8, 8)))).mean() < 8


def test_of_a_volume_the_slice_with_most_errors() -> None:
    cases = Discs(names_of(2), depth=4)
    case, at = flat(cases[0])
    assert at == 0  # where the truth was emptied
    assert case.target.ndim == 2
    assert draw(case, "errors", 2).shape == (3, *case.target.shape)
    entries = gallery(replace(made_diagnosis(2), cases=cases), 2)
    assert all("slice 0" in entry.note for entry in entries)


@pytest.mark.parametrize("with_image", [True, False])
def test_every_entry_has_its_panels(with_image: bool) -> None:
    cases = Discs(names_of(6), with_image=with_image)
    made = replace(made_diagnosis(6), cases=cases)
    entries = gallery(made, 4, other=Discs(names_of(6), shift=0))
    assert len(entries) == 4
    for entry in entries:
        assert [panel.kind for panel in entry.panels] == ["image", "truth", "prediction", "errors"]
        assert entry.other is not None
        assert "0.0% false positive, 0.0% false negative" in entry.other.alt
        assert all(panel.source.startswith("data:image/") for panel in entry.panels)


@pytest.mark.parametrize(
    ("role", "words"), [("against", "and of the other"), ("mended", "and after mending")]
)
def test_the_slider_says_what_it_compares(role: str, words: str) -> None:
    made = made_diagnosis(3)
    assert 'type="range"' not in render_html(made, num_pictures=2)
    other = replace(made, cases=Discs(names_of(3), shift=0))
    page = render_html(made, num_pictures=2, **{role: other})
    assert page.count('type="range"') == 2
    assert words in page


def test_a_mask_to_compare_with_of_another_size_is_refused() -> None:
    made = made_diagnosis(2)
    small = [replace(case, prediction=case.prediction[:4]) for case in Discs(names_of(2))]

    class Small(list):
        names = names_of(2)

    with pytest.raises(SegmendError, match=r"field_000\d: the mask to compare with has size"):
        gallery(made, 2, other=Small(small))


def test_pictures_are_found_by_name_not_by_place() -> None:
    made, names = made_diagnosis(3), names_of(3)
    backwards = Discs(tuple(reversed(names)), shift=0)
    alone = gallery(made, 3, other=Discs(names, shift=0))
    assert gallery(made, 3, other=backwards)[0].other is not None
    assert len(alone) == len(gallery(made, 3, other=backwards)) == 3


def test_without_cases_there_is_no_gallery() -> None:
    page = render_html(made_diagnosis(3, cases=False))
    assert 'id="gallery-list"' not in page
    assert 'href="#gallery"' not in page


def test_histogram_holds_every_score_once() -> None:
    counts = histogram([0.0, 0.049, 0.05, 1.0, 0.999, math.nan])
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 2, 5)


def test_the_table_keeps_scores_and_gains() -> None:
    made = made_diagnosis(30)
    found = table(made)
    assert found["names"] == list(names_of(30))
    for row, score, main in zip(made.images, found["score"], found["main"], strict=True):
        assert (score is None) == math.isnan(row.score)
        assert score is None or score / STEP == pytest.approx(row.score, abs=0.51 / STEP)
        assert main == main_fix(row, made.fixes)
    for fix in made.fixes:
        gains = [value / STEP for value in found["gains"][fix.key]]
        assert gains == pytest.approx([row.gains[fix.key] for row in made.images], abs=0.51 / STEP)


def test_of_very_many_rows_the_worst_stay() -> None:
    made = made_diagnosis(30)
    found = table(made, limit=10)
    scores = sorted(row.score for row in made.images if math.isfinite(row.score))
    assert sorted(found["score"]) == [round(score * STEP) for score in scores[:10]]
    assert found["total"] == 30


def test_one_file_with_no_address_that_leads_out() -> None:
    page = render_html(made_diagnosis(12), num_pictures=4)
    found = parsed(page)
    inside = [a for a in found.addresses if not a.startswith(("data:", "#"))]
    assert inside == []
    assert found.tags.count("script") == 3  # data, Plotly (once), our own
    assert found.tags.count("link") == 1  # the icon, which is empty
    assert page.count("plotly.js v") == 1
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "http" not in policy[1]


def test_hostile_texts_make_no_element() -> None:
    calm = made_diagnosis(3)
    evil = replace(
        calm,
        setting=replace(calm.setting, classes=(EVIL, EVIL), source=EVIL),
        images=rows_of((EVIL, EVIL + "<img>", "c")),
        verdict=replace(calm.verdict, headline=f"<h6>{EVIL}"),
        clusters=(replace(calm.clusters[0], name=EVIL),),
    )
    tame, wild = parsed(render_html(calm)), parsed(render_html(evil))
    assert wild.tags.count("script") == tame.tags.count("script")
    assert "h6" not in wild.tags
    assert embedded(render_html(evil))["table"]["names"][0] == EVIL


def test_what_is_not_known_is_left_out() -> None:
    made = replace(
        made_diagnosis(4, cases=False), bias=None, calibration=(), sizes=(), clusters=(),
        confusion=(),
    )  # fmt: skip
    page = render_html(made)
    for name in ("bias", "calibration", "sizes", "clusters", "confusion", "mended", "against"):
        assert f'<section id="{name}"' not in page
        assert f'href="#{name}"' not in page


def test_a_single_image_and_no_fix_at_all() -> None:
    made = replace(made_diagnosis(1), fixes=(), images=(ImageRow(0, "a", 1.0, {}),))
    page = render_html(replace(made, verdict=replace(made.verdict, dominant=None)))
    assert embedded(page)["table"]["names"] == ["a"]


def test_a_comparison_is_paired_by_name() -> None:
    base = many_classes()
    better = tuple(replace(row, score=row.score + 0.1) for row in reversed(base.images))
    found = compare(base, replace(base, images=better))
    assert found.difference is not None
    assert found.difference.difference == pytest.approx(0.1)
    assert found.difference.low == pytest.approx(0.1)  # the same on every image
    assert (found.better, found.worse) == (19, 0)
    assert [fix.gain for fix, _ in found.fixes] == sorted(
        (fix.gain for fix in base.fixes), reverse=True
    )


def test_other_images_are_not_compared() -> None:
    base = made_diagnosis(3, cases=False)
    with pytest.raises(SegmendError, match="'plate_00/field_0000' is not in the other"):
        compare(base, made_diagnosis(names=("a", "b", "c"), cases=False))
    with pytest.raises(SegmendError, match="3 and 2"):
        compare(base, made_diagnosis(2, cases=False))
    with pytest.raises(SegmendError, match="one scores IoU, the other mIoU"):
        compare(base, many_classes())
