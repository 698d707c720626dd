"""A widget as one HTML file that needs no kernel, no network and no other file."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lenswidget.checks import is_integer
from lenswidget.errors import LensError
from lenswidget.files import file_at, write_beside
from lenswidget.readout.query import METRICS
from lenswidget.versions import __version__
from lenswidget.widget import html_table

# ipywidgets' own traits, which mean nothing outside a notebook
NOT_SHOWN = frozenset({"layout", "tabbable", "tooltip"})
OFFLINE = {"state": "offline", "text": "A saved file: no kernel is behind it.", "done": 0, "total": 0}

# The policy forbids every request; the bundle is imported from the page's own memory, as a blob.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="lenswidget {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' blob:; \
style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>body {{ margin: 12px; background: Canvas; color: CanvasText; }}
#lens {{ overflow: auto; font: 12px system-ui, sans-serif; }}
#lens > table {{ border-collapse: collapse; }}
#lens > table :is(th, td) {{ padding: 1px 5px; max-width: 9em; overflow: hidden; text-overflow: ellipsis; \
white-space: pre; text-align: center; font-weight: normal; }}
#lens > table caption {{ padding: 0 0 8px; text-align: start; }}
{css}</style>
</head>
<body>
<main id="lens">{table}
<p>The script of this page does not run here, so this is the plain grid: each cell's top token, its \
probability as shade. Open the file in a browser for cards and charts.</p></main>
<script type="application/json" id="lens-data">{data}</script>
<script type="module">
const {{ esm, state }} = JSON.parse(document.getElementById("lens-data").textContent);
const url = URL.createObjectURL(new Blob([esm], {{ type: "text/javascript" }}));
const {{ mountStatic }} = await import(url);
URL.revokeObjectURL(url);
const main = document.getElementById("lens");
main.replaceChildren();
mountStatic(main, state);
</script>
</body>
</html>
"""


def save(
    widget: Any, path: str | Path, *, k: int = 10, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a widget to one self-contained HTML file, which opens from disk.

    The grid, its colours, pins and trajectories work there; cards show what was stored for their cell, `k`
    tokens; of the selected cell and of cards that are kept open, *Why* is stored too. What needs a kernel
    says so. Token text is data in the file: nothing is evaluated from it.

    Args:
        widget: a `LensWidget`; its site, lens, pins and looks are kept.
        path: where to; an existing file is replaced once the new one is whole.
        k: top tokens stored for each cell, 1 to 100.
        progress: called with `(done, total)` cells while the grid is read.
    Returns:
        The path, absolute.
    Raises:
        LensError: the path is no file's, `k` is out of range, or the grid cannot be read.
    """
    target = file_at(path)
    text = page(
        static_state(widget, k=k, progress=progress),
        esm=_source(widget, "_esm"),
        css=_source(widget, "_css"),
        # that of the output: short, while a whole grid of many tokens would make a file of many megabytes
        table=html_table.table(widget.run, widget.snapshot),
    )
    with write_beside(target) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")
    return target


def static_state(
    widget: Any, *, k: int = 10, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """What the frontend's `mountStatic` is given: every shared trait, with the whole grid as its snapshot.

    Returns:
        JSON-ready; the snapshot's buffers are base64 text, and `status` says that there is no kernel.
    Raises:
        LensError: `k` is out of range.
    """
    if not is_integer(k) or not 1 <= k <= 100:
        raise LensError(f"Asked to store the {k!r} best tokens of each cell: choose k from 1 to 100.")
    names = (name for name in widget.trait_names(sync=True) if not name.startswith("_"))
    state = {name: _storable(getattr(widget, name)) for name in names if name not in NOT_SHOWN}
    # the token of the metric "rank", which must be there for the colours to be chosen
    edited = state["run"]["edited"]
    answer = state["run"]["next"]["id"] if edited is None else edited["effect"]["id"]
    ranked = answer if widget.rank_token is None else widget.rank_token
    packed = widget.packed_grid(k=k, metrics=METRICS, track=(ranked,), with_base=True, progress=progress)
    if widget.floor:
        packed.header["floor"] = widget.packed_floor()
    if progress is not None:
        n_cells = len(packed.header["layers"]) * len(packed.header["positions"])
        progress(n_cells, n_cells)
    source_id = state["source_run"].get("id")
    source = source_id and widget.packed_grid(k=k, metrics=METRICS, track=(ranked,), run_id=source_id)
    return {
        **state,
        "k": k,
        "spine": widget.packed_spine(),
        "snapshot": _storable(packed.trait),
        "source_snapshot": _storable(source.trait) if source else {},
        "whys": widget.stored_whys(),
        "status": OFFLINE,
    }


def _storable(value: Any) -> Any:
    """A trait as JSON can hold it: the buffers of one that has them become base64 text."""
    if not isinstance(value, Mapping) or "buffers" not in value:
        return value
    given: Mapping[str, Any] = value
    return {**given, "buffers": [base64.b64encode(buffer).decode("ascii") for buffer in given["buffers"]]}


def page(state: Mapping[str, Any], *, esm: str, css: str, table: str = "") -> str:
    """The HTML of a file that shows `state` with the given bundle; `table` (HTML) where no script runs."""
    prompt = str(state["run"].get("prompt", ""))
    return PAGE.format(
        version=__version__,
        title=html.escape(f"{prompt[:80]} · lenswidget" if prompt else "lenswidget"),
        css=css.replace("</", "<\\/"),
        table=table,
        data=inline_json({"state": state, "esm": esm}),
    )


def inline_json(value: Any) -> str:
    """JSON that can stand inside a `<script>` element: no `<` is left in it, so nothing can close that.

    Raises:
        ValueError: a NaN or an infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _source(widget: Any, name: str) -> str:
    # anywidget keeps the text, or with live reload an object whose text it is
    return str(getattr(widget, name))
