"""Browser pages that keep a log of what went wrong in them and of every request that left the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from .servers import ROOT

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # A second lock on the door: no name resolves but the machine's own.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
LOCAL_SCHEMES = ("blob", "data", "about", "file", "chrome")


def is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in ("127.0.0.1", "localhost")


@dataclass
class PageLog:
    """What a page did: requests that left the machine, uncaught errors, console errors."""

    outside: list[str] = field(default_factory=list)
    uncaught: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        def request(url: str) -> None:
            if not is_local(url):
                self.outside.append(url)

        page.on("request", lambda r: request(r.url))
        page.on("websocket", lambda s: request(s.url))
        page.on("pageerror", lambda e: self.uncaught.append(str(e)))
        page.on("console", lambda m: self.console.append(m.text) if m.type == "error" else None)

    def of_lenswidget(self) -> list[str]:
        """The errors that name the widget; hosts log a few of their own."""
        return [line for line in (*self.uncaught, *self.console) if "lenswidget" in line.lower()]


@contextmanager
def chromium() -> Iterator[Browser]:
    path = subprocess.run(
        [ROOT / "scripts" / "find_browser"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(browser: Browser, **options: Any) -> Iterator[tuple[Page, PageLog]]:
    """A page in a context of its own; leaving it asserts that nothing left the machine."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 960}, **options})
    log = PageLog()
    context.on("page", log.watch)
    page = context.new_page()
    try:
        yield page, log
        assert log.outside == [], f"requests left the machine: {log.outside}"
    finally:
        context.close()
