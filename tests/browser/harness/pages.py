"""Browser pages that keep a log of what went wrong in them and of every request that left the machine."""

from __future__ import annotations

import subprocess
import time
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
# What is waited for comes at once on an idle machine; beside other tests on two slow cores it may take long.
PATIENCE_MS = 60_000
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


def frames(page: Page, n: int = 2) -> None:
    """Waits until the page has drawn what it holds, however slow it is."""
    page.evaluate(
        "async n => { for (let i = 0; i < n; i++) await new Promise(requestAnimationFrame); }",
        n,
    )


def until_still(page: Page, measure: str) -> Any:
    """Waits until a number of the page stays the same for a while, as after a smooth scroll; the number."""
    end = time.monotonic() + PATIENCE_MS / 1000
    last, same = page.evaluate(measure), 0
    while same < 4:
        assert time.monotonic() < end, f"{measure} does not come to rest"
        page.wait_for_timeout(100)
        frames(page)
        now = page.evaluate(measure)
        last, same = now, same + 1 if now == last else 0
    return last


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
    context.set_default_timeout(PATIENCE_MS)
    log = PageLog()
    context.on("page", log.watch)
    page = context.new_page()
    try:
        yield page, log
        assert log.outside == [], f"requests left the machine: {log.outside}"
    finally:
        context.close()
