"""The report's server: pages of rows, pictures on demand, and nothing else."""

from __future__ import annotations

import http.client
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from browser_support import chromium, leaving, open_page
from made_diagnosis import Discs, made_diagnosis, names_of
from playwright.sync_api import sync_playwright

from segmend.diagnose.report.rows import Query, Rows, read_query
from segmend.diagnose.report.serve import ReportServer, Site
from segmend.errors import SegmendError


@pytest.fixture(scope="module")
def server() -> Iterator[ReportServer]:
    made = made_diagnosis(130)
    mended = replace(made, cases=Discs(names_of(130), shift=1))
    with ReportServer(Site(made, mended=mended, num_pictures=5)) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: ReportServer, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_rows_are_paged_as_asked_for(server: ReportServer) -> None:
    status, headers, body = ask(server, "/rows?sort=score&start=50&count=10")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    found = json.loads(body)
    scores = sorted(r.score for r in made_diagnosis(130).images if math.isfinite(r.score))
    assert found["total"] == 130
    assert [row["score"] for row in found["rows"]] == scores[50:60]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["name", "score", "main", "main-gain", "fix-gain"])
def test_every_column_sorts(sort: str, descending: bool) -> None:
    rows = Rows(made_diagnosis(40)).page(Query(sort, descending, count=40, fix="missed"))["rows"]
    made = made_diagnosis(40)
    values = {
        "name": [row["name"] for row in rows],
        "score": [row["score"] for row in rows if math.isfinite(row["score"])],
        "main": [made.fixes[row["main"]].title for row in rows if row["main"] is not None],
        "main-gain": [row["mainGain"] for row in rows if row["mainGain"] is not None],
        "fix-gain": [row["fixGain"] for row in rows],
    }[sort]
    assert values == sorted(values, reverse=descending)
    assert len(rows) == 40
    if sort == "score":
        assert math.isnan(rows[-1]["score"])


def test_filters_agree_with_the_rows() -> None:
    made = made_diagnosis(60)
    pages = Rows(made)
    found = pages.page(Query(kind="contour", below=0.8, name="FIELD_00", count=500))
    assert 0 < found["total"] == len(found["rows"]) < 60
    for row in found["rows"]:
        assert row["score"] < 0.8
        assert made.fixes[row["main"]].family == "contour"
    assert pages.page(Query(name="nowhere"))["total"] == 0


@pytest.mark.parametrize(
    "given",
    [{"sort": "secret"}, {"start": "-1"}, {"count": "0"}, {"count": "501"}, {"below": "x"},
     {"path": "/etc/passwd"}],
)  # fmt: skip
def test_bad_questions_are_refused(given: dict[str, str], server: ReportServer) -> None:
    with pytest.raises(SegmendError):
        read_query(given)
    key, value = next(iter(given.items()))
    assert ask(server, f"/rows?{key}={value}")[0] == 400


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/picture/../../x",
     "/picture/1/..%2f..%2fetc", "/picture/-1/image", "/picture/130/image", "/image/130",
     "/image/1/../2", "/report.json", "/rows/"],
)  # fmt: skip
def test_nothing_else_is_served(server: ReportServer, path: str) -> None:
    status, _, body = ask(server, path)
    assert status == 404
    assert b"root:" not in body


def test_numbers_are_ascii() -> None:
    with pytest.raises(LookupError):
        Site(made_diagnosis(5), num_pictures=0).answer("/image/\u0663")


def test_it_listens_on_this_machine_only(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/", host="evil.example:80")[0] == 421
    port = server.server_address[1]
    assert ask(server, "/", host=f"localhost:{port}", method="HEAD")[0] == 200


def test_answers_carry_their_guards(server: ReportServer) -> None:
    _, headers, body = ask(server, "/")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert b"frame" not in headers.get("Server", "").encode()
    assert b"field_0100" not in body  # rows come when asked for
    assert ask(server, "/", method="POST")[0] == 501


def test_gallery_pictures_come_from_addresses(server: ReportServer) -> None:
    page = ask(server, "/")[2].decode()
    start = page.index('src="picture/') + 5
    address = page[start : page.index('"', start)]
    status, headers, body = ask(server, f"/{address}")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    assert body[:4] == b"RIFF"


def test_an_image_has_a_page_of_its_own(server: ReportServer) -> None:
    status, _, body = ask(server, "/image/7")
    assert status == 200
    assert b"plate_00/field_0007" in body
    assert body.count(b"data:image/webp") == 4
    site = Site(made_diagnosis(2, cases=False))
    assert b"not at hand" in site.answer("/image/1").body


def test_a_file_that_cannot_be_read_is_named() -> None:
    class Broken(Discs):
        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            raise SegmendError("a.png: cannot be read")

    site = Site(replace(made_diagnosis(1), cases=Broken(("a",))), num_pictures=0)
    with pytest.raises(SegmendError, match=r"a\.png"):
        site.answer("/image/0")


def test_a_taken_port_is_named(server: ReportServer) -> None:
    port = server.server_address[1]
    with pytest.raises(SegmendError, match=f"port {port}: cannot be opened"):
        ReportServer(Site(made_diagnosis(1), num_pictures=0), port=port)


def test_the_served_page_works_in_a_browser(server: ReportServer) -> None:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        found = open_page(browser, server.address)
        page = found.page
        assert page.locator("#page-state").inner_text() == "1 to 50 of 130 images"
        with page.expect_response(lambda r: "rows?" in r.url and "name=field_012" in r.url):
            page.fill("#filter-name", "field_012")
        page.wait_for_selector("#page-state:has-text('1 to 10 of 10 images')")
        page.locator("#image-table tbody a").first.click()
        page.wait_for_selector("h1:has-text('field_012')")
        widths = page.locator("img").evaluate_all("nodes => nodes.map(n => n.clientWidth)")
        assert len(widths) == 4
        assert min(widths) > 400  # larger than in the gallery
        assert found.problems == []
        assert leaving(found, home=server.address) == []
        browser.close()
