"""The grid as a plain table: what it says is what was read, and nothing in it is HTML of a token's."""

import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter

import lenswidget as lw
from lenswidget.widget import html_table
from lenswidget.widget.labels import Label
from lenswidget.widget.packing import pack


class Table(HTMLParser):
    """The rows of a table, each cell as (text, title, style); its caption."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.caption, self.tags, self._open = [], "", set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self._open = tag
        found = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", found.get("title", ""), found.get("style", "")))

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "caption":
            self.caption += data
        elif self._open in ("td", "th"):
            _, *others = self.rows[-1][-1]
            self.rows[-1][-1] = (data, *others)


@pytest.fixture(scope="module")
def widget(demo_model):
    return lw.LensWidget(demo_model, "The Eiffel Tower is in the city of")


def test_the_table_says_what_a_readout_says_last_layer_first(widget):
    table = Table(html_table.table(widget.run, widget.snapshot))
    readout = widget.readout()
    labels = widget._session.labels
    top = np.array([labels[i].text for i in readout.ids[:, 0].tolist()]).reshape(31, 9)
    probs = np.exp(readout.log_probs[:, 0]).reshape(31, 9)
    assert [row[0][0] for row in table.rows] == ["layer", *map(str, range(29, -1, -1)), "embed"]
    assert [text for text, *_ in table.rows[0][1:]][-3:] == ["␣the", "␣city", "␣of"]
    for row, expected, p in zip(table.rows[1:], top[::-1], probs[::-1], strict=True):
        assert [text for text, *_ in row[1:]] == list(expected)
        for (_, title, style), value in zip(row[1:], p, strict=True):
            assert float(title.rstrip("%")) / 100 == pytest.approx(value, abs=5.01e-4)
            assert float(re.search(r"([\d.]+)\)", style)[1]) == pytest.approx(value, abs=5.01e-3)
    assert table.caption == (
        "SmolLM2-135M-Instruct, “The Eiffel Tower is in the city of”, resid_post through the logit lens"
    )


def test_a_token_is_text_and_a_cell_without_a_number_says_so():
    evil = "<img src=x onerror=alert(1)>"
    arrays = {
        "ids": np.array([[[7], [7]]], np.int32),
        "log_probs": np.array([[[-0.5], [np.nan]]], np.float32),
    }
    header = {"site": "resid_post", "lens": "<b>", "layers": [-1], "positions": [4, 5]}
    packed = pack(arrays, {7: Label(evil, "text", evil)}, **header)
    run = {"model": "m", "tokens": [7] * 6, "labels": packed.header["labels"]}
    table = Table(html_table.table(run, {"header": packed.header, "buffers": packed.buffers}))
    assert table.tags == {"table", "caption", "tr", "th", "td"}
    assert [text for text, *_ in table.rows[1]] == ["embed", evil, "not finite"]
    assert table.caption == "m, resid_post through the <b> lens, the last 2 of 6 tokens"


def test_nbconvert_shows_the_table_where_no_widget_state_was_saved(widget):
    data, _ = widget._repr_mimebundle_()
    notebook = nbformat.v4.new_notebook()
    notebook.cells.append(
        nbformat.v4.new_code_cell("w", outputs=[nbformat.v4.new_output("display_data", data)])
    )
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert Table(page[page.index("<table") : page.index("</table>")]).rows == Table(data["text/html"]).rows
    assert "object at" not in page
