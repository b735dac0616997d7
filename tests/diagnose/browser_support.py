"""A real Chromium for tests, and pages in it that remember what went wrong."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

TIMEOUT = 60_000
"""Milliseconds; a busy machine is slow, and no test waits for what does not come."""


def chromium() -> str | None:
    """Path of an installed browser; None: the one that `playwright install chromium` fetched."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Opened:
    """A page, and all that it complained about or asked for."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def open_page(browser: Browser, address: str | Path, *, theme: str = "light") -> Opened:
    """Open a report and wait until its table stands."""
    if isinstance(address, Path):
        address = address.as_uri()
    context = browser.new_context(
        color_scheme=theme,  # type: ignore[arg-type]
        viewport={"width": 1280, "height": 900},
        reduced_motion="reduce",
    )
    opened = Opened(context.new_page())
    page = opened.page
    page.set_default_timeout(TIMEOUT)
    page.on("pageerror", lambda error: opened.problems.append(f"page error: {error}"))
    page.on("console", lambda said: _note(opened, said.type, said.text))
    page.on("dialog", lambda dialog: opened.problems.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(address)
    wait_until_ready(page)
    return opened


def wait_until_ready(page: Page) -> None:
    """By selector: waiting for an expression needs eval, which the report's policy forbids."""
    page.wait_for_selector("html[data-ready=true]", timeout=TIMEOUT)


def _note(opened: Opened, kind: str, text: str) -> None:
    if kind in ("error", "warning", "assert"):
        opened.problems.append(f"console {kind}: {text}")


def leaving(opened: Opened, *, home: str) -> list[str]:
    """Requests that went anywhere else."""
    inside = (home, "data:", "blob:")
    return [url for url in opened.requests if not url.startswith(inside)]
