"""Two threads in any order, and interrupts: whatever comes of it, here and on the page one run is shown."""

import contextlib
import functools
import linecache
import random
import sys
import threading
from pathlib import Path

import pytest
import torch
from side_by_side import SECONDS, together
from tiny import PROMPT, language_model
from widget_pages import Page, kept_by_the_page

from lenswidget.errors import LensError
from lenswidget.interventions.recipe import Edit
from lenswidget.widget import turns

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


# --- an interrupt at lines of the widget's code

FOLDER = str(Path(turns.__file__).parent)
# Lines at which Python looks for no signal.
SILENT = ("try:", "finally:", "yield", "return back", "raise")
# Functions in which a real interrupt waits, or that undo what one has left.
GUARDS = ("back", "undisturbed", "interruptible", "turn", "_held", "_take", "__call__")
N_LINES = 20


def interrupted(action, at):
    """Do it with an interrupt at a line of the widget's code, or at none; how many lines there were."""
    n_lines = 0

    def on_line(frame, event, _):
        nonlocal n_lines
        if event == "line" and not is_silent(frame.f_code.co_filename, frame.f_lineno):
            n_lines += 1
            if n_lines == at:
                raise KeyboardInterrupt
        return on_line

    def on_call(frame, *_):
        code = frame.f_code
        is_ours = code.co_filename.startswith(FOLDER) and code.co_name not in GUARDS
        return on_line if is_ours else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        action()
    finally:
        sys.settrace(before)
    return n_lines


@functools.cache
def is_silent(path, number):
    return linecache.getline(path, number).strip().startswith(SILENT)


def reply_of(page, **fields):
    """A request of the page; whether its one reply says that the kernel was interrupted."""
    reply, _ = page.ask(**fields)
    if reply.get("error", {}).get("message") == "The kernel was interrupted.":
        raise KeyboardInterrupt


def hold_two(w):
    with w.hold_trait_notifications():
        w.k = 3
        w.selection = {"layer": 2, "position": 1}


CHANGES = {
    "prompt": lambda w, page: setattr(w, "prompt", "The city of"),
    "edits": lambda w, page: setattr(w, "edits", [Edit("zero", layers=1)]),
    "selection": lambda w, page: setattr(w, "selection", {"layer": 2, "position": 1}),
    "k": lambda w, page: setattr(w, "k", 3),
    "hold": lambda w, page: hold_two(w),
    "fork": lambda w, page: w.fork(1, 9),
    "compare": lambda w, page: w.compare_with(0),
    "message": lambda w, page: reply_of(page, kind="run", run_id=w.run["id"], prompt="The city of"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_interrupt_at_any_line_of_a_change_makes_all_of_it_or_nothing(model, name):
    w = model.lens(PROMPT)
    page, seen = Page(w), kept_by_the_page(w)
    w.selection = {"layer": 1, "position": 0}
    w.fork(2, 7)

    def change():
        CHANGES[name](w, page)

    def begin_again():
        w.compare_with(None)
        w.edits, w.k = (), 5
        w.prompt = PROMPT
        w.fork(2, 7)
        w.selection = {"layer": 1, "position": 0}

    n_lines = interrupted(change, None)
    begin_again()
    n_undone = 0
    for at in sorted(random.Random(name).sample(range(1, n_lines + 1), min(N_LINES, n_lines))):
        before = {each: getattr(w, each) for each in (*w.keys, "edits") if each != "layout"}
        shown = w._session.shown, w._session.is_paired
        try:
            interrupted(change, at)
        except KeyboardInterrupt:
            after = {each: getattr(w, each) for each in before}
            is_undone = after == before and (w._session.shown, w._session.is_paired) == shown
            n_undone += is_undone
        check_it_shows_one_run(w, page, seen, model)
        begin_again()
    assert n_undone > 0
    w.close()
