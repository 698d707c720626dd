"""Pages of no known host, around one stored widget: whatever parents, styles and themes a page may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from lenswidget.widget.export import inline_json, static_state

STATIC = Path(__file__).resolve().parents[3] / "lenswidget" / "static"

# Each element of the class `here` gets a view of the widget.
HTML = """<!doctype html><html {root}><head><meta charset="utf-8"><style>{css}</style>{head}</head>
<body>{body}
<script type="application/json" id="data">{data}</script><script type="module">
const {{ esm, state }} = JSON.parse(document.getElementById("data").textContent);
const {{ mountStatic }} = await import(URL.createObjectURL(new Blob([esm], {{ type: "text/javascript" }})));
for (const element of document.querySelectorAll(".here")) mountStatic(element, state);
window.isReady = true;
</script></body></html>"""


class PlainPages:
    """Opens pages of any HTML with a widget in them; none needs a kernel."""

    def __init__(self, widget: Any):
        esm = (STATIC / "widget.js").read_text()
        self._data = inline_json({"esm": esm, "state": static_state(widget)})
        self._css = (STATIC / "widget.css").read_text()

    def html(self, body: str = '<div class="here"></div>', *, head: str = "", root: str = "") -> str:
        return HTML.format(root=root, css=self._css, head=head, body=body, data=self._data)

    def open(self, page: Page, body: str = '<div class="here"></div>', **parts: str) -> None:
        # not `set_content`, whose page has no address of its own: a blob is then of another origin
        page.route("http://localhost/page", lambda route: route.fulfill(body=self.html(body, **parts)))
        page.goto("http://localhost/page")
        page.wait_for_function("() => window.isReady")
        page.unroute("http://localhost/page")
