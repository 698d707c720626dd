"""A page that shows notebook outputs as VS Code does: its own widget manager, theme and style rules.

The page is not VS Code. What is VS Code's: the widget manager (npm `@vscode/jupyter-ipywidgets8`), finding
anywidget through its notebook extension, the body's classes and variables of each theme, the global style
rules of its notebook webview that touch an output. What stands in: the way from the kernel to the page, which
is a slowed socket here and the extension host there; and there is no editor around it.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from .servers import TOKEN

HERE = Path(__file__).resolve().parent.parent / "vscode"
NBEXTENSIONS = Path(sys.prefix) / "share" / "jupyter" / "nbextensions"
THEMES: dict[str, Any] = json.loads((HERE / "themes.json").read_text())
# Measured in VS Code: 27 ms at 1 kB, 136 ms at 50 kB, 1,085 ms at 1 MB.
PIPE_MS_PER_MB = 1000
RUN_TIMEOUT_MS = 180_000

# The rules of VS Code's notebook webview that reach into an output; `white` is its box behind ipywidgets.
STYLE = """
body { margin: 0; padding: 0 26px; overflow-y: auto; background: var(--vscode-editor-background);
       color: var(--vscode-foreground); font-family: var(--vscode-font-family); font-size: 13px; }
#container > div { overflow-x: auto; }
.cell-output-ipywidget-background { background: white !important; }
table, thead, tr, th, td, tbody { border: none; border-spacing: 0; border-collapse: collapse; }
table { width: 100%; }
table, th, tr { text-align: left; }
tr:nth-child(even) { background-color: rgba(130, 130, 130, 0.08); }
th, td { padding: 4px 8px; }
"""


def page_html(theme: str) -> str:
    kind, variables = THEMES[theme]["kind"], THEMES[theme]["vars"]
    root = "".join(f"--vscode-{name}: {value};\n" for name, value in variables.items())
    return f"""<!doctype html>
<html><head><meta charset="utf-8"><link rel="icon" href="data:,"><title>Notebook output</title>
<style>:root {{ {root} }} {STYLE}</style>
<script src="/require.js"></script><script src="/jquery.js"></script></head>
<body class="{kind}" data-vscode-theme-kind="{kind}" role="document">
<div id="container" class="widgetarea"><div></div></div><script src="/host.js"></script></body></html>"""


SCRIPTS = {
    "/host.js": HERE / "dist" / "host.js",
    "/ipywidgets.js": HERE / "dist" / "ipywidgets.js",
    "/require.js": HERE / "node_modules" / "requirejs" / "require.js",
    "/jquery.js": HERE / "node_modules" / "jquery" / "dist" / "jquery.min.js",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/theme/"):
            self._answer(page_html(path.removeprefix("/theme/")).encode(), "text/html; charset=utf-8")
            return
        file = SCRIPTS.get(path)
        if path.startswith("/nbextensions/") and ".." not in path:
            file = NBEXTENSIONS / path.removeprefix("/nbextensions/")
        if file is not None and file.is_file():
            self._answer(file.read_bytes(), "text/javascript; charset=utf-8")
        else:
            self._answer(b"", "text/plain", status=404)

    def _answer(self, body: bytes, content_type: str, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def assets() -> Iterator[str]:
    """Serves the page and its scripts; yields its address."""
    assert (HERE / "dist" / "host.js").exists(), "Run scripts/make_vscode_host (`make setup` does)."
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class VSCodePage:
    """A page with a kernel of its own, in one of VS Code's themes."""

    def __init__(self, page: Page, assets_url: str, jupyter_url: str, theme: str):
        self.page = page
        page.goto(f"{assets_url}/theme/{theme}")
        options = {"base": jupyter_url, "token": TOKEN, "pipeMsPerMb": PIPE_MS_PER_MB}
        page.evaluate("options => openLensHost(options)", options)

    def run(self, code: str) -> str:
        """Runs a cell and shows its widgets; returns what it printed."""
        out = self.page.evaluate("code => lensHost.run(code)", code)
        assert out["error"] is None, out["error"]
        return out["text"]

    def value(self, expression: str) -> Any:
        return json.loads(self.run(f"import json; print(json.dumps({expression}))"))

    def log(self) -> list[str]:
        """What the widget manager loaded, and what it failed to load."""
        return self.page.evaluate("() => lensHost.log")

    @property
    def output(self) -> Locator:
        return self.page.locator(".output")

    def shut_down(self) -> None:
        self.page.evaluate("() => lensHost.kernel.shutdown()")
