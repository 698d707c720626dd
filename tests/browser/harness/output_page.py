"""Pages that show notebook outputs as VS Code and Colab do, with a real kernel.

They are not VS Code and Colab. What is VS Code's: the widget manager (npm `@vscode/jupyter-ipywidgets8`),
finding anywidget through its notebook extension, the body's classes and variables of each theme, the global
style rules of its notebook webview that touch an output. What is Colab's: each output in a frame of another
origin whose root element names the theme. What stands in: the way from the kernel to the page, which is a
slowed socket here; and the editor around it, of which there is the frame's place in it alone.
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Frame, Locator, Page

from .servers import TOKEN

HERE = Path(__file__).resolve().parent.parent / "output_page"
NBEXTENSIONS = Path(sys.prefix) / "share" / "jupyter" / "nbextensions"
THEMES: dict[str, Any] = json.loads((HERE / "themes.json").read_text())
# Measured in VS Code: 27 ms at 1 kB, 136 ms at 50 kB, 1,085 ms at 1 MB.
PIPE_MS_PER_MB = 1000

# The rules of VS Code's notebook webview that reach into an output; `white` is its box behind ipywidgets.
VSCODE_STYLE = """
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


@dataclass(frozen=True)
class Look:
    """What a theme puts on the root element and the body, and its variables and colours as CSS."""

    root: dict[str, str]
    body: dict[str, str]
    style: str


def vscode_look(theme: str) -> Look:
    """A theme of `themes.json`, as a notebook's webview wears it."""
    kind, variables = THEMES[theme]["kind"], THEMES[theme]["vars"]
    root = "".join(f"--vscode-{name}: {value};\n" for name, value in variables.items())
    return Look({}, {"class": kind, "data-vscode-theme-kind": kind}, f":root {{ {root} }} {VSCODE_STYLE}")


def colab_look(theme: str) -> Look:
    """Light or dark, as the frame of one output wears it: an attribute of the root element."""
    colors = (
        "background: #383838; color: #d5d5d5;" if theme == "dark" else "background: #fff; color: #212121;"
    )
    return Look({"theme": theme}, {}, f"body {{ margin: 8px; font: 14px Roboto, sans-serif; {colors} }}")


LOOKS = {"vscode": vscode_look, "colab": colab_look}


def colab_html(output_url: str) -> str:
    """The notebook around one output's frame."""
    return f"""<!doctype html><html><head><meta charset="utf-8"><link rel="icon" href="data:,"></head>
<body><iframe src="{output_url}" sandbox="allow-scripts allow-same-origin allow-downloads"
 style="width: 100%; height: 900px; border: 0"></iframe></body></html>"""


# VS Code's editor: the frame of all outputs is as tall as the notebook, and is moved behind a window. Nothing
# in it scrolls. The editor hears of the frame's height, of wheels, of keys that reach the frame's window, and
# of links to places in the frame, all that a page can scroll it with (webviewPreloads.ts, 2021 to 2026).
EDITOR_HTML = """<!doctype html><html><head><meta charset="utf-8"><link rel="icon" href="data:,"><style>
body { margin: 0 } #editor { position: fixed; inset: 40px 0 0; overflow: clip }
iframe { position: absolute; left: 0; top: 0; width: 100%; border: 0 }</style></head>
<body><div id="editor"><iframe src="OUTPUT"
 sandbox="allow-scripts allow-same-origin allow-downloads"></iframe></div><script>
const frame = document.querySelector("iframe"), editor = document.getElementById("editor");
window.obeys = true; window.keys = []; window.scrolled = 0;
window.scrollNotebook = (top) => {
  const most = Math.max(0, frame.offsetHeight - editor.offsetHeight);
  window.scrolled = Math.max(0, Math.min(top, most));
  frame.style.top = -window.scrolled + "px";
};
addEventListener("message", ({ data }) => {
  if (data.type === "dimension") frame.style.height = Math.max(data.height, editor.offsetHeight) + "px";
  if (data.type === "did-scroll-wheel") scrollNotebook(window.scrolled + data.deltaY);
  if (data.type === "scroll-to-reveal" && window.obeys) scrollNotebook(data.scrollTop);
  if (data.type === "did-keydown") window.keys.push(data.key);
});
</script></body></html>"""

# A notebook's other cells, above and below the outputs; and what VS Code's scripts in the frame listen to.
FRAME_SCRIPT = """<style>#container { padding: 700px 0 4000px }</style><script>
const tell = (type, rest) => parent.postMessage({ type, ...rest }, "*");
new ResizeObserver(([{ target }]) => tell("dimension", { height: target.offsetHeight }))
  .observe(document.getElementById("container"));
const takes = (event) => {
  for (let node = event.target; node instanceof Element && node.id !== "container"; node = node.parentNode) {
    const { scrollTop, scrollHeight, clientHeight } = node;
    if (event.deltaY < 0 ? scrollTop > 0 : scrollTop + clientHeight < scrollHeight) return true;
  }
  return false;
};
addEventListener("wheel", (event) => {
  if (!event.defaultPrevented && !takes(event)) tell("did-scroll-wheel", { deltaY: event.deltaY });
});
addEventListener("keydown", ({ key }) => tell("did-keydown", { key }));
document.body.addEventListener("click", (event) => {
  for (const node of event.composedPath()) {
    if (!(node instanceof HTMLAnchorElement) || !node.href) continue;
    const target = node.hash && event.view.document.getElementById(node.hash.slice(1));
    const top = target?.getBoundingClientRect().top + event.view.scrollY;
    if (target) tell("scroll-to-reveal", { scrollTop: top });
    else event.preventDefault();
    return;
  }
});
</script>"""

# The look is put on before the first widget is drawn, and may be changed later.
OUTPUT_HTML = """<!doctype html>
<html><head><meta charset="utf-8"><link rel="icon" href="data:,"><title>Notebook output</title>
<style id="look"></style><script src="/require.js"></script><script src="/jquery.js"></script></head>
<body role="document"><div id="container" class="widgetarea"><div></div></div>
<script src="/host.js"></script></body></html>"""


SCRIPTS = {
    "/host.js": HERE / "dist" / "host.js",
    "/ipywidgets.js": HERE / "dist" / "ipywidgets.js",
    "/require.js": HERE / "node_modules" / "requirejs" / "require.js",
    "/jquery.js": HERE / "node_modules" / "jquery" / "dist" / "jquery.min.js",
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        # By another name than the page around it, so that the frame is of another origin.
        output = f"http://localhost:{self.server.server_address[1]}/output"
        editor = EDITOR_HTML.replace("OUTPUT", f"{output}-vscode")
        tall = OUTPUT_HTML.replace("</body>", f"{FRAME_SCRIPT}</body>")
        pages = {
            "/vscode": editor,
            "/output-vscode": tall,
            "/output": OUTPUT_HTML,
            "/colab": colab_html(output),
        }
        if page := pages.get(path):
            self._answer(page.encode(), "text/html; charset=utf-8")
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
    assert (HERE / "dist" / "host.js").exists(), "Run scripts/make_output_page (`make setup` does)."
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class OutputPage:
    """A page with a kernel of its own; `host` is "vscode" (any of `THEMES`) or "colab" (light, dark)."""

    def __init__(self, page: Page, assets_url: str, jupyter_url: str, host: str):
        page.goto(f"{assets_url}/{host}")
        self.page = page
        self.host = host
        self.frame: Frame = page.frames[-1]
        self.frame.wait_for_function("() => window.openLensHost")
        options = {
            "base": jupyter_url,
            "token": TOKEN,
            "pipeMsPerMb": PIPE_MS_PER_MB if host == "vscode" else 0,
        }
        self.frame.evaluate("options => openLensHost(options)", options)

    def use_theme(self, theme: str) -> None:
        """Wears a theme, as the host does when a person switches."""
        self.frame.evaluate(
            """({ root, body, style }) => {
                 document.getElementById("look").textContent = style;
                 for (const [name, value] of Object.entries(root))
                   document.documentElement.setAttribute(name, value);
                 for (const [name, value] of Object.entries(body)) document.body.setAttribute(name, value);
               }""",
            asdict(LOOKS[self.host](theme)),
        )

    def scroll_to(self, y: int) -> None:
        """Scrolls VS Code's notebook: so much of it is above the window."""
        self.page.evaluate("y => scrollNotebook(y)", y)
        self.page.wait_for_timeout(150)

    def run(self, code: str) -> str:
        """Runs a cell and shows its widgets; returns what it printed."""
        out = self.frame.evaluate("code => lensHost.run(code)", code)
        assert out["error"] is None, out["error"]
        return out["text"]

    def value(self, expression: str) -> Any:
        """The value of a Python expression in the kernel, by way of JSON."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))"))

    def log(self) -> list[str]:
        """What the widget manager loaded, and what it failed to load."""
        return self.frame.evaluate("() => lensHost.log")

    @property
    def output(self) -> Locator:
        return self.frame.locator(".output")

    def shut_down(self) -> None:
        self.frame.evaluate("() => lensHost.kernel.shutdown()")
