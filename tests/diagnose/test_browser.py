"""The report in a real browser: what is drawn, what can be done, and that nothing leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_support import Opened, chromium, leaving, open_page, wait_until_ready
from made_diagnosis import FIXES, Discs, made_diagnosis, many_classes, names_of, rows_of
from playwright.sync_api import Browser, Page, expect, sync_playwright

from segmend.diagnose.report.html import render_html
from segmend.diagnose.save import save

HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>\u2028<b>bold</b>&amp;'
CHARTS = (
    "gains", "bias-error", "bias-offset", "confusion", "calibration", "sizes", "clusters", "scores",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = made_diagnosis(130)
    mended = replace(
        base,
        score=replace(base.score, pooled=0.77),
        images=tuple(replace(row, score=row.score * 1.05) for row in base.images),
        cases=Discs(names_of(130), shift=1),
    )
    folder = tmp_path_factory.mktemp("report")
    return save(base, folder / "report.html", mended=mended, against=mended, num_pictures=20)


@pytest.fixture(scope="module")
def still(browser: Browser, report: Path) -> Iterator[Page]:
    """One page for the tests that only look: opening one takes longer than most of them."""
    found = open_page(browser, report)
    yield found.page
    assert found.problems == []
    found.page.context.close()


@pytest.fixture(scope="module")
def _desk(browser: Browser, report: Path) -> Iterator[Opened]:
    found = open_page(browser, report)
    yield found
    assert leaving(found, home=report.as_uri()) == []
    found.page.context.close()


@pytest.fixture
def desk(_desk: Opened) -> Iterator[Page]:
    """One page for the tests that use the table and the gallery, put back before each."""
    page = _desk.page
    page.fill("#filter-name", "")
    page.fill("#filter-below", "")
    page.select_option("#filter-kind", "")
    page.select_option("#gallery-kind", "")
    head = page.locator("#image-table th:nth-child(2)")
    while head.get_attribute("aria-sort") != "ascending":
        head.locator("button").click()
    yield page
    assert _desk.problems == []


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    found = open_page(browser, report)
    yield found
    assert found.problems == []
    assert leaving(found, home=report.as_uri()) == []
    found.page.context.close()


@pytest.fixture
def page(opened: Opened) -> Page:
    return opened.page


def column(page: Page, number: int) -> list[str]:
    return page.locator(f"#image-table tbody tr td:nth-child({number})").all_inner_texts()


def draw_charts(page: Page) -> None:
    page.evaluate("drawAll()")
    for name in CHARTS:
        if page.locator(f"#plot-{name}").count():
            page.wait_for_selector(f"#plot-{name} svg.main-svg", state="attached")


def test_headline_score_and_command_stand_there(still: Page) -> None:
    assert "lean one way" in still.locator("h1").inner_text()
    assert "74.2" in still.locator(".facts").inner_text()
    assert still.locator(".advice").count() == 2
    assert "segmend refine fit --probs probs/val" in still.locator(".advice pre").first.inner_text()


def test_charts_are_drawn_when_scrolled_to(still: Page) -> None:
    for name in CHARTS:
        still.locator(f"#plot-{name}").scroll_into_view_if_needed()
        still.wait_for_selector(f"#plot-{name} svg.main-svg", state="attached")
    assert still.locator("#plot-gains .barlayer .point path").count() == len(FIXES)
    assert still.locator("#plot-gains .errorbar").count() == len(FIXES)
    chances = sum(fix.chance is not None for fix in FIXES)
    assert still.locator("#plot-gains .scatterlayer .points path").count() == chances
    assert still.locator("#plot-calibration .scatterlayer .trace").count() == 4
    assert still.locator("#plot-bias-error .heatmaplayer image").count() == 1
    assert "16" in still.locator("#plot-confusion").inner_text()


def test_bars_are_as_long_as_the_gains(still: Page) -> None:
    draw_charts(still)
    boxes = still.locator("#plot-gains .barlayer .point path").evaluate_all(
        "paths => paths.map(p => p.getBoundingClientRect().width)"
    )
    gains = sorted(fix.gain for fix in FIXES)
    for width, gain in zip(sorted(boxes), gains, strict=True):
        assert width / max(boxes) == pytest.approx(gain / gains[-1], abs=0.01)


def test_every_chart_has_its_numbers_as_a_table(still: Page) -> None:
    for name in CHARTS:
        figure = still.locator(f"figure:has(#plot-{name})")
        assert figure.locator("details table caption").count() == 1, name
        assert figure.locator("[role=img]").get_attribute("aria-label"), name


def test_the_table_sorts_by_mouse_and_by_key(desk: Page) -> None:
    shown = [float(text) for text in column(desk, 2) if text != "–"]
    scores = sorted(row.score for row in rows_of(names_of(130)) if row.score == row.score)
    assert shown == pytest.approx([100 * score for score in scores[:50]], abs=0.06)
    head = desk.locator("#image-table th:nth-child(2)")
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert float(column(desk, 2)[0]) == pytest.approx(100 * scores[-1], abs=0.06)
    desk.locator("#image-table th:nth-child(1) button").focus()
    desk.keyboard.press("Enter")
    assert column(desk, 1)[:3] == list(names_of(3))
    assert head.get_attribute("aria-sort") == "none"


def test_images_without_a_score_come_last_either_way(desk: Page) -> None:
    for _ in range(2):
        desk.locator("#image-table th:nth-child(2) button").click()
        for _ in range(2):
            desk.locator("#page-next").click()
        assert column(desk, 2)[-1] == "–"


def test_pages_of_the_table(desk: Page) -> None:
    state = desk.locator("#page-state")
    assert state.inner_text() == "1 to 50 of 130 images"
    assert desk.locator("#page-previous").is_disabled()
    desk.locator("#page-next").click()
    desk.locator("#page-next").click()
    assert state.inner_text() == "101 to 130 of 130 images"
    assert desk.locator("#page-next").is_disabled()
    assert len(column(desk, 1)) == 30


def test_the_table_filters(desk: Page) -> None:
    desk.fill("#filter-name", "FIELD_012")
    assert desk.locator("#page-state").inner_text() == "1 to 10 of 10 images"
    desk.fill("#filter-name", "")
    desk.fill("#filter-below", "60")
    assert max(float(text) for text in column(desk, 2)) < 60
    desk.fill("#filter-below", "")
    desk.select_option("#filter-kind", "contour")
    assert set(column(desk, 3)) == {"Outlines right within 2 px"}
    desk.fill("#filter-name", "no such image")
    assert desk.locator("#page-state").inner_text() == "No image matches"


def test_a_column_of_any_fix(desk: Page) -> None:
    desk.select_option("#column-fix", "missed")
    head = desk.locator("#image-table th:nth-child(5) button")
    assert "Missed objects restored" in head.inner_text()
    head.click()
    best = max(row.gains["missed"] for row in rows_of(names_of(130)))
    assert column(desk, 5)[0] == f"+{100 * best:.1f}"


def test_the_gallery_filters_and_shows_more(desk: Page) -> None:
    shown = desk.locator("#gallery-list > li:not([hidden])")
    assert shown.count() == 8
    desk.locator("#gallery-more").click()
    assert shown.count() == 16
    desk.select_option("#gallery-kind", "contour")
    count = shown.count()
    assert 0 < count < 20
    gains = shown.evaluate_all(
        "nodes => nodes.map(n => Number(/contour:([0-9.]+)/.exec(n.dataset.kinds)[1]))"
    )
    assert gains == sorted(gains, reverse=True)
    assert str(count) in desk.locator("#gallery-count").inner_text()


def test_pictures_are_there_and_described(still: Page) -> None:
    first = still.locator("#gallery-list > li").first
    first.scroll_into_view_if_needed()
    first.locator("img").evaluate_all("images => Promise.all(images.map(i => i.decode()))")
    sizes = first.locator("img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert min(sizes) > 100
    texts = first.locator("img").evaluate_all("images => images.map(i => i.alt)")
    assert len(texts) == 5
    assert any("false negative" in text for text in texts)
    assert any("errors to compare with" in text for text in texts)


def test_the_slider_moves_by_mouse_and_by_key(desk: Page) -> None:
    box = desk.locator(".compare").first
    box.scroll_into_view_if_needed()
    slider, frame = box.locator("input"), box.bounding_box()
    assert frame is not None

    handle = box.locator(".handle").bounding_box()
    assert handle is not None
    assert handle["x"] + 1 == pytest.approx(frame["x"] + frame["width"] / 2, abs=2)
    y = frame["y"] + frame["height"] / 2
    desk.mouse.move(frame["x"] + frame["width"] / 2, y)
    desk.mouse.down()
    desk.mouse.move(frame["x"] + frame["width"] * 0.2, y, steps=4)
    desk.mouse.up()
    assert 10 < float(slider.input_value()) < 30
    handle = box.locator(".handle").bounding_box()
    assert handle is not None
    share = (handle["x"] + 1 - frame["x"]) / frame["width"]
    assert 100 * share == pytest.approx(float(slider.input_value()), abs=1)
    slider.focus()
    before = float(slider.input_value())
    desk.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == before + 1
    desk.keyboard.press("End")
    assert float(slider.input_value()) == 100


def test_the_theme_follows_the_system_and_can_be_switched(page: Page, browser: Browser) -> None:
    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    draw_charts(page)
    light, bar = ground(), page.locator("#plot-gains .barlayer .point path").first
    colour = bar.evaluate("node => getComputedStyle(node).fill")
    page.locator("#theme").click()
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    assert ground() != light
    expect(bar).not_to_have_css("fill", colour)
    page.reload()
    wait_until_ready(page)
    assert ground() != light  # it is remembered
    page.locator("#theme").click()
    assert ground() == light


def test_the_command_is_copied(desk: Page) -> None:
    desk.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = desk.locator(".copy").first
    button.click()
    expect(button).to_contain_text("Copied")
    copied = desk.evaluate("navigator.clipboard.readText()")
    assert copied == made_diagnosis(1).verdict.recommendations[0].command
    assert "copied" in desk.locator("#announcer").inner_text().lower()


def test_print_is_light_and_whole(page: Page) -> None:
    page.locator("#theme").click()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    for name in CHARTS:
        page.wait_for_selector(f"#plot-{name} svg.main-svg", state="attached")
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()
    assert not page.locator(".contents").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_small_windows_do_not_scroll_sideways(still: Page) -> None:
    still.set_viewport_size({"width": 360, "height": 800})
    draw_charts(still)
    still.wait_for_timeout(200)
    assert still.evaluate("document.documentElement.scrollWidth") <= 360
    still.set_viewport_size({"width": 1280, "height": 900})


def test_a_keyboard_reaches_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    assert "Skip" in page.evaluate("document.activeElement.textContent")
    seen = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className"
                " || document.activeElement.type || document.activeElement.tagName"
            )
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement.type === 'range'")
        if "page-next" in seen:
            break
    assert {"theme", "print", "copy", "gallery-kind", "range", "filter-name", "page-next"} <= seen


@pytest.mark.parametrize("kind", ["binary", "many classes"])
def test_no_serious_barrier(browser: Browser, report: Path, tmp_path: Path, kind: str) -> None:
    path = report if kind == "binary" else save(many_classes(), tmp_path / "many.html")
    found = open_page(browser, path)
    page = found.page
    draw_charts(page)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.wait_for_selector(f"html[data-theme={theme}]")
        results = Axe().run(page)
        violations = results.response["violations"]
        serious = [v for v in violations if v["impact"] in ("serious", "critical")]
        told = [(v["id"], v["help"], [n["html"][:160] for n in v["nodes"][:3]]) for v in serious]
        assert (theme, told) == (theme, [])
        assert len(results.response["passes"]) > 20  # it did look
    if kind == "many classes":
        assert "No add-on" in page.locator("#verdict").inner_text()
        before = page.locator("#plot-calibration .scatterlayer path.js-line").count()
        page.select_option("#calibration-class", "3")
        assert page.locator("#plot-calibration .scatterlayer path.js-line").count() == before
    assert found.problems == []
    page.context.close()


def hostile() -> str:
    base = made_diagnosis(names=(HOSTILE, "b", "c"))
    fix = replace(FIXES[0], key=HOSTILE, title=HOSTILE, explanation=HOSTILE)
    advice = replace(base.verdict.recommendations[0], title=HOSTILE, command=HOSTILE, why=HOSTILE)
    evil = replace(
        base,
        setting=replace(base.setting, classes=("background", HOSTILE), source=HOSTILE),
        fixes=(fix, *FIXES[1:]),
        images=rows_of((HOSTILE, "b", "c"), (fix, *FIXES[1:])),
        verdict=replace(
            base.verdict, headline=HOSTILE, dominant=HOSTILE, recommendations=(advice,)
        ),
        calibration=tuple(replace(curve, label=HOSTILE) for curve in base.calibration),
        clusters=tuple(replace(cluster, name=HOSTILE) for cluster in base.clusters),
    )
    return render_html(evil, against=evil, mended=evil)


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(hostile(), "utf-8")
    found = open_page(browser, path)
    page = found.page
    draw_charts(page)
    assert page.locator("h1").inner_text().startswith('"><img src=x onerror=alert(1)>')
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("main script, main b").count() == 0
    assert page.locator("#plot-gains a, #plot-confusion a").count() == 0
    shown = page.locator("#plot-gains .ytick").all_text_contents()
    assert any(text.startswith('"><img src=x') for text in shown)
    assert HOSTILE.split("\u2028")[0] in page.locator("#image-table tbody").inner_text()
    assert found.problems == []
    assert leaving(found, home=path.as_uri()) == []
    page.context.close()


def test_the_policy_stops_scripts_that_are_not_ours(browser: Browser, report: Path) -> None:
    found = open_page(browser, report)
    found.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
        " document.body.append(s); }"
    )
    found.page.evaluate("() => { new Image().src = 'http://127.0.0.1:9/leak'; }")
    assert found.page.evaluate("window.evil") is None
    assert any("Content Security Policy" in problem for problem in found.problems)
    found.page.context.close()


def test_without_script_the_findings_are_still_there(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#gallery-list > li").count() == 20
    assert page.locator("#gains table tr").count() == 1 + len(FIXES)
    assert page.locator("noscript").count() == 1
    context.close()


def test_three_thousand_images(browser: Browser, tmp_path: Path) -> None:
    path = save(made_diagnosis(3000), tmp_path / "large.html")
    assert path.stat().st_size < 25e6
    found = open_page(browser, path)
    assert found.page.locator("#page-state").inner_text() == "1 to 50 of 3,000 images"
    assert found.page.locator("#image-table tbody tr").count() == 50
    ready = found.page.evaluate("performance.getEntriesByName('segmend-ready')[0].startTime")
    print(f"{path.stat().st_size / 1e6:.1f} MB, ready after {ready:.0f} ms")
    found.page.context.close()


def test_a_telephone_shows_all_of_it(browser: Browser, report: Path) -> None:
    found = open_page(browser, report)
    page = found.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    wait_until_ready(page)
    draw_charts(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    texts = page.locator("#plot-gains text, #plot-sizes text")
    ends = texts.evaluate_all("all => all.map(t => t.getBoundingClientRect().right)")
    assert len(ends) > len(FIXES)
    assert max(ends) <= 391
    assert page.locator("#plot-sizes .xtick").count() == 5  # none is left out for want of room
    assert found.problems == []
    page.context.close()
