"""The grid as a plain HTML table, for whoever shows a notebook's outputs and runs no widget.

nbconvert, *File → Print* and pages that only draw notebooks take it where no widget can be.
"""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lenswidget.widget.packing import unpack
from lenswidget.widget.summary import quoted_prompt

# What the caption says of what stands in a cell, where that is not the top token.
SHOWN = {
    "words": ". Each cell: the most probable word",
    "lift": ". Each cell: the word that is most above its usual at that layer",
}


def table(run: Mapping[str, Any], snapshot: Mapping[str, Any]) -> str:
    """The token that stands in each cell, the last layer first; its probability is the shade, and on hover.

    Args:
        run, snapshot: the widget's traits of that name: as many of the newest tokens as the snapshot holds.
    Returns:
        HTML with every token escaped; empty without a snapshot.
    """
    if not snapshot:
        return ""
    header = snapshot["header"]
    arrays = unpack(header, snapshot["buffers"])
    ids, log_probs = arrays["ids"][..., 0], arrays["log_probs"][..., 0]
    shown = SHOWN.get(header.get("show", "top"), "")
    if shown:
        ids, log_probs = arrays["shown_ids"], arrays["shown_log_probs"]
    positions = header["positions"]
    rows = [*_roles(run, positions), _tokens(run, positions)]
    for row in reversed(range(len(header["layers"]))):
        cells = "".join(_cells(header["labels"], ids[row].tolist(), log_probs[row].tolist()))
        rows.append(f"<tr>{_layer(run, header['layers'][row])}{cells}</tr>")
    first = f", the last {len(positions)} of {len(run['tokens'])} tokens" if positions[0] else ""
    says = ". Each cell: the token that stands there" if run.get("predicts") == "same" else ""
    read = f"{header['site']} through the {header['lens']} lens"
    prompt = f" {quoted_prompt(run)}," if run.get("prompt") else ""
    caption = f"{run['model']},{prompt} {read}{first}{says}{shown}"
    return f"<table><caption>{html.escape(caption)}</caption>{''.join(rows)}</table>"


def _roles(run: Mapping[str, Any], positions: Sequence[int]) -> Iterator[str]:
    """A row that says whose message each column is of; none outside chats."""
    messages = [band for band in run.get("bands", ()) if band["kind"] == "message"]
    if not messages:
        return
    roles = [next((m["label"] for m in messages if m["start"] <= i < m["stop"]), "") for i in positions]
    starts = {band["start"] for band in messages}
    spans: list[tuple[str, int]] = []
    for position, role in zip(positions, roles, strict=True):
        if spans and position not in starts and spans[-1][0] == role:
            spans[-1] = (role, spans[-1][1] + 1)
        else:
            spans.append((role, 1))
    heads = (f'<th colspan="{n}">{html.escape(role)}</th>' for role, n in spans)
    yield f"<tr><th>role</th>{''.join(heads)}</tr>"


def _tokens(run: Mapping[str, Any], positions: Sequence[int]) -> str:
    tokens = (_cell("th", _label(run["labels"], run["tokens"][i]), f"position {i}") for i in positions)
    return f"<tr><th>layer</th>{''.join(tokens)}</tr>"


def _layer(run: Mapping[str, Any], layer: int) -> str:
    """The head of a row: its layer, or pass and block where blocks run in a loop."""
    if layer < 0:
        return _cell("th", "embed")
    if not run.get("rows"):
        return _cell("th", str(layer))
    row = run["rows"][layer]
    return _cell("th", row["name"], html.escape(f"{row['phrase']}, {row['path']}: layer {layer}", quote=True))


def _cells(labels: Mapping[str, Any], ids: list[int], log_probs: list[float]) -> Iterator[str]:
    for token_id, log_prob in zip(ids, log_probs, strict=True):
        p = math.exp(log_prob)
        if token_id == -2:  # no such cell
            yield _cell("td", "")
        elif math.isnan(p):
            yield _cell("td", "not finite")
        else:
            style = f"background:rgba(8,98,168,{p:.2f});color:{'#fff' if p > 0.75 else 'inherit'}"
            yield _cell("td", _label(labels, token_id), f"{p:.1%}", style)


def _cell(kind: str, text: str, title: str = "", style: str = "") -> str:
    shown = "".join(f' {name}="{value}"' for name, value in (("title", title), ("style", style)) if value)
    return f"<{kind}{shown}>{html.escape(text)}</{kind}>"


def _label(labels: Mapping[str, Any], token_id: int) -> str:
    return labels[str(token_id)][0]
