"""Two threads in any order, and interrupts: whatever comes of it, here and on the page one run is shown."""

import _thread
import contextlib
import random
import signal
import threading

import pytest
import torch
from side_by_side import SECONDS, together
from tiny import PROMPT, language_model
from widget_pages import Page, kept_by_the_page

from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit

REFUSED = [{"selection": {"layer": 99, "position": 0}}, {"site": "nonsense"}, {"pins": [{}]}]


@pytest.fixture(scope="module")
def model():
    return language_model()


def set_one(w, page, rng):
    name, value = rng.choice(
        [
            ("prompt", f"{PROMPT} {rng.randrange(99)}"),
            ("edits", [Edit("zero", layers=rng.randrange(3))]),
            ("edits", ()),
            ("selection", {"layer": rng.randrange(3), "position": rng.randrange(3)}),
            ("k", rng.randrange(1, 9)),
            ("metric", rng.choice(["prob", "entropy"])),
        ]
    )
    setattr(w, name, value)


def hold(w, page, rng):
    with w.hold_trait_notifications():
        w.k = rng.randrange(1, 9)
        set_one(w, page, rng)
        if rng.random() < 0.5:
            [(name, value)] = rng.choice(REFUSED).items()
            setattr(w, name, value)


def hold_sync(w, page, rng):
    with w.hold_sync():
        set_one(w, page, rng)
        set_one(w, page, rng)


def send(w, page, rng):
    run_id = w.run["id"]
    kind, fields = rng.choice(
        [
            ("run", {"prompt": f"{rng.randrange(99)} {PROMPT}"}),
            ("run", {"again": run_id, "fork": {"position": 1, "token": rng.randrange(99)}}),
            (
                "decode",
                {"layer": 1, "position": rng.randrange(3), "site": "resid_post", "lens": "logit", "k": 5},
            ),
            ("search", {"text": "a", "k": 3}),
            ("nonsense", {}),
        ]
    )
    reply, _ = page.ask(kind, **{"run_id": run_id, "track": [], **fields})
    assert reply.get("error", {}).get("type") != "InternalError", reply


def set_state(w, page, rng):
    w.set_state(
        rng.choice([*REFUSED, {"k": rng.randrange(1, 9)}, {"column_width_px": 30 + rng.randrange(99)}])
    )


def fork(w, page, rng):
    w.fork(rng.randrange(3), rng.randrange(99))


def compare(w, page, rng):
    w.compare_with(rng.choice([0, 1, None]))


def trace(w, page, rng):
    with w._session.engine.model.trace(PROMPT):
        w.selection = {"layer": rng.randrange(3), "position": 0}


ACTIONS = [set_one, set_one, hold, hold_sync, send, send, set_state, fork, compare, trace]


def act(w, page, rng, n=6):
    for _ in range(n):
        with contextlib.suppress(LensError):
            rng.choice(ACTIONS)(w, page, rng)


def check_it_shows_one_run(w, page, seen, model):
    session = w._session
    run = w.run["id"]
    assert (run, run) == (session.shown, w.snapshot["header"]["run_id"])
    assert w.snapshot["header"]["k"] == w.k
    for name in ("run", "prompt", "k", "metric", "selection", "view"):
        if name in seen:
            assert seen[name] == getattr(w, name), name
    if w.selection is not None:
        assert w.decoded["run_id"] in session.together
        assert (w.decoded["layer"], w.decoded["position"]) == (w.selection["layer"], w.selection["position"])
    free = []
    thread = threading.Thread(
        target=lambda: free.append(model.lock.acquire(timeout=5.0)) or model.lock.release()
    )
    thread.start()
    thread.join(SECONDS)
    assert free == [True]
    cell = {"layer": 1, "position": 0, "site": "resid_post", "lens": "logit", "k": 3}
    reply, _ = page.ask("decode", run_id=run, **cell, track=[], select=False)
    if not session.is_paired and not session.spec.active_edits:
        with torch.no_grad():
            ids = torch.tensor([session.run.token_ids.tolist()])
            state = model.hf_model(ids, output_hidden_states=True).hidden_states[2][0, 0]
            expected = model.hf_model.lm_head(model.hf_model.transformer.ln_f(state)).topk(3)
        assert reply["value"]["ids"] == expected.indices.tolist()


@pytest.mark.parametrize("seed", range(100))
def test_two_threads_in_any_order_leave_one_run_that_is_shown(model, seed):
    w = model.lens(PROMPT)
    page, seen = Page(w), kept_by_the_page(w)
    rngs = random.Random(2 * seed), random.Random(2 * seed + 1)
    together(lambda: act(w, page, rngs[1]), here=lambda: act(w, page, rngs[0]))
    check_it_shows_one_run(w, page, seen, model)
    w.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_widget_that_one_thread_closes_holds_up_no_other(model, seed):
    w = model.lens(PROMPT)
    page, rng = Page(w), random.Random(seed)

    def close():
        for _ in range(rng.randrange(4)):
            page.ask("ping")
        w.close()

    together(close, here=lambda: act(w, page, random.Random(seed)))
    other = model.lens(PROMPT)
    check_it_shows_one_run(other, Page(other), {}, model)
    other.close()


@pytest.mark.parametrize("seed", range(30))
def test_interrupts_of_cells_beside_a_page_leave_one_run_that_is_shown(model, seed):
    w = model.lens(PROMPT)
    page, seen = Page(w), kept_by_the_page(w)
    rngs = [random.Random(3 * seed + i) for i in range(3)]
    is_done = threading.Event()

    def cells():
        for _ in range(12):
            with contextlib.suppress(KeyboardInterrupt):
                act(w, page, rngs[0], n=1)

    def pages():
        for _ in range(6):
            act(w, page, rngs[1], n=1)
            is_done.wait(0.004 * rngs[2].random())
            if not is_done.is_set():
                _thread.interrupt_main(signal.SIGINT)

    def here():
        try:
            cells()
        finally:
            is_done.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        together(pages, here=here)
    finally:
        signal.signal(signal.SIGINT, before)
    check_it_shows_one_run(w, page, seen, model)
    w.close()
