"""What stands in the widget's cells, and the floor, as the page asks for them."""

import json

import numpy as np
import pytest
import torch
from tiny import PROMPT, gpt2, language_model
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import LensError
from lenswidget.lenses.jacobian import JacobianLens
from lenswidget.widget.packing import unpack


@pytest.fixture
def model():
    return language_model(gpt2)


@pytest.fixture
def page(model):
    return Page(model.lens(PROMPT))


def asked_of(page):
    return {
        "run_id": page.widget.run["id"],
        "layers": [0, 2, 3],
        "positions": [1, 4],
        "site": "resid_post",
        "lens": "logit",
        "k": 3,
        "track": [],
        "metrics": [],
    }


def read(page, show, **fields):
    content, buffers = page.ask("read", show=show, **{**asked_of(page), **fields})
    assert "value" in content, content
    return content["value"], unpack(content["value"], buffers)


@pytest.mark.parametrize("show", ["words", "lift"])
def test_a_read_brings_what_is_shown_with_its_labels(page, model, show):
    header, arrays = read(page, show)
    background = lw.fit_background(model) if show == "lift" else None
    run = model.run(PROMPT)
    cells = lw.Cells.grid([0, 2, 3], [1, 4])
    expected = lw.read(run, cells, k=3, show=show, background=background)
    assert header["show"] == show
    assert np.array_equal(arrays["shown_ids"].ravel(), expected.shown_ids)
    assert np.array_equal(arrays["shown_ranks"].ravel(), expected.shown_ranks)
    assert ("shown_lifts" in arrays) == (show == "lift")
    assert {str(i) for i in expected.shown_ids} <= set(header["labels"])


def test_a_page_that_asks_for_nothing_else_gets_top_tokens(page):
    header, arrays = read(page, "top")
    assert header["show"] == "top"
    assert not any(name.startswith("shown_") for name in arrays)


def test_rows_that_a_lens_cannot_carry_come_empty_beside_those_it_can(model):
    lens = JacobianLens({2: torch.eye(32)}, 1, 4)
    page = Page(model.lens(PROMPT, lens=lens))
    _, arrays = read(page, "top", lens=lens.name, layers=[-1, 0, 2, 3])
    assert (arrays["ids"][:2] == -2).all()
    assert (arrays["ids"][2:] >= 0).all()
    content, _ = page.ask("read", **{**asked_of(page), "lens": lens.name, "layers": [-2, 2]})
    assert "-2" in content["error"]["message"]


@pytest.mark.parametrize("show", ["top", "words", "lift"])
def test_the_floor_is_told_by_layer(page, model, show):
    content, _ = page.ask("floor", site="resid_post", lens="logit", show=show)
    floor = lw.fit_background(model).floors[show]
    assert content["value"]["layers"] == [-1, 0, 1, 2, 3]
    assert content["value"]["values"][-1] == "NaN"
    np.testing.assert_array_equal(np.float32(content["value"]["values"][:-1]), floor[:-1])


def test_a_request_for_what_is_not_there_is_refused(page):
    for fields in ({"lens": "other"}, {"show": "best"}, {"site": "nowhere"}):
        content, _ = page.ask("floor", **{"site": "resid_post", "lens": "logit", "show": "top", **fields})
        assert "error" in content


def test_python_sees_what_the_grid_shows(page, model):
    widget = page.widget
    assert widget.readout().shown_ids is None
    widget.show = "words"
    expected = lw.read(model.run(PROMPT), show="words")
    assert np.array_equal(widget.readout().shown_ids, expected.shown_ids)
    assert widget.snapshot["header"]["show"] == "words"
    assert widget.state["show"] == "words"
    assert "shown" in widget.to_dataframe()
    assert widget.readout(show="top").shown_ids is None
    table = widget._repr_mimebundle_()[0]["text/html"]
    assert "the most probable word" in table
    # a word needs nothing that must be fitted first
    widget.show = "lift"
    assert widget.snapshot["header"]["show"] == "top"


def test_lift_waits_for_the_pages_own_requests(page):
    widget = page.widget
    widget.show = "lift"
    assert widget.snapshot["header"]["show"] == "top"  # what is usual is not known yet
    read(page, "lift")
    widget.k = 4
    assert widget.snapshot["header"]["show"] == "lift"
    assert widget.readout().shown_lifts is not None


def test_a_saved_file_has_what_is_shown_and_its_floor(page, tmp_path):
    widget = page.widget
    widget.show, widget.floor = "words", True
    path = widget.save(tmp_path / "saved.html")
    data = path.read_text().split('id="lens-data">')[1].split("</script>")[0]
    state = json.loads(data)["state"]
    header = state["snapshot"]["header"]
    assert (state["show"], header["show"]) == ("words", "words")
    assert header["floor"]["layers"] == [-1, 0, 1, 2, 3]
    widget.floor = False
    data = widget.save(path).read_text().split('id="lens-data">')[1].split("</script>")[0]
    assert "floor" not in json.loads(data)["state"]["snapshot"]["header"]


def test_a_model_without_words_shows_top_tokens_only(tmp_path):
    widget = lw.LanguageModel(gpt2(), None).lens([1, 2, 3], floor=True)
    assert widget.save(tmp_path / "saved.html").exists()  # and no floor
    assert not widget.run["has_words"]
    with pytest.raises(LensError, match="no tokenizer"):
        widget.show = "words"
    assert widget.show == "top"


@pytest.mark.parametrize("show", ["top", "words", "lift"])
def test_copied_code_reads_what_stands_in_the_cell(page, model, show, capsys):
    request = {"layer": 2, "position": 4, "site": "resid_post", "lens": "logit", "k": 2, "track": []}
    content, _ = page.ask("code", run_id=page.widget.run["id"], show=show, **request)
    names = {"model": model}
    exec(content["value"]["code"], names)
    assert ("standing" in names) == (show != "top")
    if show != "top":
        background = lw.fit_background(model) if show == "lift" else None
        expected = lw.read(model.run(PROMPT), [(2, 4)], show=show, background=background)
        assert names["standing"].shown_ids == expected.shown_ids
        assert capsys.readouterr().out.endswith(f"{expected.shown()[0]!r} {expected.shown_ranks[0]}\n")
