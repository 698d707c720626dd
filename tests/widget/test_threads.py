"""A host may handle a page's messages on another thread than the cells, as JupyterLab 4.6 does."""

import sys
import threading
import traceback

import pytest
import traitlets
from tiny import PROMPT, language_model
from widget_pages import Page

SECONDS = 60


@pytest.fixture(scope="module")
def model():
    return language_model()


def together(*works):
    """Each work on a thread of its own; fails where one does not end, or fails."""
    failures = []

    def watched(work):
        try:
            work()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=watched, args=(work,), daemon=True) for work in works]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(interval_s)
    assert not any(thread.is_alive() for thread in threads), "two threads wait for each other"
    assert failures == []


def kept_by_the_page(w):
    """What a page has after all updates, by trait."""
    state = {}
    send = w.comm.send

    def kept(data, *rest, **more):
        state.update(data.get("state", {}) if data.get("method") == "update" else {})
        send(data, *rest, **more)

    w.comm.send = kept
    return state


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
