"""A host may handle a page's messages on another thread than the cells, as JupyterLab 4.6 does."""

import threading

import pytest
import traitlets
from side_by_side import together
from tiny import PROMPT, language_model
from widget_pages import Page, kept_by_the_page


@pytest.fixture(scope="module")
def model():
    return language_model()


def test_what_cells_and_page_run_at_once_is_shown_whole_here_and_there(model):
    w = model.lens(PROMPT)
    page, seen = Page(w), kept_by_the_page(w)

    def cells():
        for i in range(40):
            w.prompt = f"{PROMPT} {i}"
            w.metric = ("prob", "entropy")[i % 2]

    def pages():
        for i in range(40):
            reply, _ = page.ask("run", prompt=f"{i} {PROMPT}")
            assert "value" in reply or reply["error"]["type"] == "Cancelled"
            w.set_state({"column_width_px": 30 + i})

    together(cells, pages)
    run = w.run["id"]
    assert run == w._session.shown == w.snapshot["header"]["run_id"]
    assert w.run["prompt"] == w.prompt == w._session.spec.prompt.as_given
    assert (seen["run"]["id"], seen["prompt"], seen["metric"]) == (run, w.prompt, w.metric)
    assert w.column_width_px == 69


def test_two_threads_that_set_two_linked_widgets_do_not_wait_for_each_other(model):
    first, second = model.lens(PROMPT), language_model().lens(PROMPT)
    traitlets.link((first, "selection"), (second, "selection"))

    def setting(w):
        for i in range(60):
            w.selection = {"layer": i % 3, "position": 1}

    together(lambda: setting(first), lambda: setting(second))
    assert first.selection == second.selection
    for w in (first, second):
        assert (w.decoded["layer"], w.decoded["position"]) == (w.selection["layer"], 1)


def test_a_trace_that_sets_a_trait_and_a_click_do_not_wait_for_each_other(model):
    w = model.lens(PROMPT)
    page = Page(w)
    begun = threading.Event()

    def tracing():
        with model.trace(PROMPT):
            begun.set()
            for i in range(20):
                w.selection = {"layer": i % 3, "position": 0}

    def clicking():
        begun.wait()
        for i in range(20):
            asked = {"layer": i % 3, "position": 1, "site": w.site, "lens": w.lens, "k": 5}
            reply, _ = page.ask("decode", run_id=w.run["id"], **asked, track=[])
            assert reply["value"]["position"] == 1

    together(tracing, clicking)
    assert w.decoded["position"] == w.selection["position"] == 1
