"""Campaigns of faults, seeded: `tests/test_torture.py` runs a share of each, `make torture` the whole.

Each gives a `Counter`: how many tries ended well ("ok"), and what else came of the others.
"""

import gc
import random
import weakref
from collections import Counter

import comm
import psutil
import torch
from ipywidgets.widgets import widget as registry
from tiny import PROMPT, gpt2, language_model, n_hooks
from widget_pages import Page

from lenswidget.errors import LensError
from lenswidget.tracing import isolation
from lenswidget.tracing.open_traces import innermost_trace
from lenswidget.widget.widget import LensWidget

VALUES = [
    None,
    True,
    0,
    1,
    -1,
    3,
    10**12,
    0.5,
    1e400,
    "",
    "a",
    "a\ud800",
    "resid_post",
    "logit",
    [],
    [0],
    [1, 2],
]
VALUES += [[[]], {}, {"a": 1}, [None], "x" * 500]
KINDS = ["read", "decode", "search", "code", "ping", "cancel", "run", "x", 3, [], None]
FIELDS = ("run_id", "layers", "positions", "layer", "position", "site", "lens", "k", "track", "metrics")
FIELDS += ("temperature", "text", "prompt", "again", "target", "select", "edits", "against")


def messages(n, seed=0):
    """`n` messages of a page: one reply each, and no choice, prompt or run changed by one that is refused."""
    rng, found = random.Random(seed), Counter()
    widget = LensWidget(language_model(gpt2, n_layer=2), PROMPT)
    page, names = Page(widget), LensWidget.class_trait_names(is_choice=True)
    for i in range(n):
        run_id = widget.run["id"]
        good = {"run_id": run_id, "layers": [0, 1], "positions": [0], "layer": 1, "position": 1, "k": 2}
        good |= {
            "site": "resid_post",
            "lens": "logit",
            "track": [],
            "metrics": [],
            "text": "a",
            "again": run_id,
        }
        good |= {"prompt": "The city", "select": False, "edits": None, "against": None, "temperature": 1}
        message = {"kind": rng.choice(KINDS)}
        for name in FIELDS:
            value = good.get(name) if rng.random() < 0.8 else rng.choice(VALUES)
            if rng.random() < (0.3 if name == "again" else 0.95):
                message[name] = value
        request_id = f"{i}" if rng.random() < 0.9 else rng.choice(VALUES)
        before = {name: getattr(widget, name) for name in (*names, "prompt", "edits", "run", "snapshot")}
        page.sent.clear()
        try:
            widget._receive(widget, {"id": request_id, **message}, [])
        except BaseException as error:
            found[f"raised {type(error).__name__}"] += 1
            continue
        replies = [content for content, _ in page.sent if "kind" not in content]
        after = {name: getattr(widget, name) for name in before}
        may_change = (
            replies and "value" in replies[0] and (message["kind"] == "run" or message.get("select", True))
        )
        if len(replies) != 1:
            found[f"{len(replies)} replies"] += 1
        elif after != before and not may_change:
            found[f"changed by {message['kind']!r}"] += 1
        elif replies[0].get("error", {}).get("type") == "InternalError":
            found[f"internal error: {replies[0]['error']['message']:.80}"] += 1
        else:
            found["ok"] += 1
    return found


def traits(n, seed=0):
    """`n` values that a page sets: what is refused changes nothing, and the widget answers after each."""
    rng, found = random.Random(seed), Counter()
    widget = LensWidget(language_model(gpt2, n_layer=2), PROMPT)
    page, names = Page(widget), [*widget.keys, "no_such_trait", "a\ud800"]
    for _ in range(n):
        name, value = rng.choice(names), rng.choice(VALUES)
        before = {each: getattr(widget, each) for each in widget.keys}
        page.sent.clear()
        try:
            widget.set_state({name: value})
        except BaseException as error:
            found[f"raised {type(error).__name__} at {name}"] += 1
            continue
        refused = [content for content, _ in page.sent if content.get("kind") == "refused"]
        after = {each: getattr(widget, each) for each in widget.keys}
        answers = page.ask("ping")[0].get("value") == {}
        is_good = answers and (not refused or after == before)
        found["ok" if is_good else f"{name} = {value!r:.30}"] += 1
    return found


def fail(model, tracer, rng):
    _ = model.transformer.h[rng.randrange(4)].output
    raise ZeroDivisionError


def interrupt(model, tracer, rng):
    model.transformer.h[0].output = model.transformer.h[0].output[0] * 2
    _ = model.transformer.h[rng.randrange(1, 4)].output
    raise KeyboardInterrupt


def write_late(model, tracer, rng):
    _ = model.transformer.h[3].output
    model.transformer.h[rng.randrange(3)].output = torch.zeros(1, 8, 32)


def write_wrong_shape(model, tracer, rng):
    model.transformer.h[rng.randrange(3)].output = torch.zeros(1, 8, 31)
    _ = tracer.result


def fail_in_the_forward(model, tracer, rng):
    hook = model.hf_model.transformer.h[rng.randrange(4)].register_forward_hook(lambda *_: 1 / 0)
    try:
        _ = tracer.result
    finally:
        hook.remove()


def ask_for_nothing_there(model, tracer, rng):
    _ = model.transformer.h[rng.randrange(4)].nonsense.output


def replay_and_fail(model, tracer, rng):
    _ = model.transformer.h[3].output
    _ = model.transformer.h[rng.randrange(3)].output
    raise ZeroDivisionError


def modes_and_fail(model, tracer, rng):
    torch.set_grad_enabled(True)
    _ = model.transformer.h[rng.randrange(4)].output
    torch.set_default_dtype(torch.float64)
    raise ZeroDivisionError


FAULTS = [fail, interrupt, write_late, write_wrong_shape, fail_in_the_forward, ask_for_nothing_there]
FAULTS += [replay_and_fail, modes_and_fail]


def faults(kind, n, seed=0):
    """`n` traces that fail in one way: nothing is left of any, and the next gives the model's own result."""
    rng, found = random.Random(seed), Counter()
    model = language_model(gpt2)
    ids = torch.tensor([[5, 17, 40, 200, 3, 99, 120, 7]])
    with torch.no_grad():
        expected = model.hf_model(ids).logits
        with model.trace(ids):
            pass
    hooks, state = n_hooks(model.hf_model), isolation.take()
    for _ in range(n):
        raised = None
        try:
            with model.trace(ids) as tracer:
                kind(model, tracer, rng)
        except (LensError, ZeroDivisionError, KeyboardInterrupt, RuntimeError, AttributeError) as error:
            raised = error
        own_dtype = kind is modes_and_fail  # what the body sets for itself it keeps, as without a trace
        if own_dtype:
            torch.set_default_dtype(torch.float32)
            torch.set_grad_enabled(True)
        left = what_is_left(model, hooks, state)
        found["not raised" if raised is None else left or "ok"] += 1
    with torch.no_grad(), model.trace(ids) as tracer:
        if not torch.equal(tracer.result.logits, expected):
            found["another result afterwards"] += 1
    return found


def what_is_left(model, hooks, state):
    """What a trace has left behind, in words; empty where nothing."""
    if n_hooks(model.hf_model) != hooks:
        return "hooks"
    if isolation.take() != state:
        return "torch state"
    if hasattr(torch.Tensor, "save"):
        return "Tensor.save"
    if model.lock._holders:
        return "lock"
    try:
        innermost_trace(model.hf_model, "", "anything")
    except LensError:
        return ""
    return "open trace"


# --- what stays: figures after many are to be those after few


def figures():
    """Objects of Python, open widgets, comms, and the process's memory in MiB."""
    for _ in range(3):
        gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "widgets": len(registry._instances),
        "comms": len(comm.get_comm_manager().comms),
        "MiB": round(psutil.Process().memory_info().rss / 2**20, 1),
    }


def prompts(n, seed=0):
    """Run `n` prompts in one widget; the figures after a tenth of them, and after all."""
    rng = random.Random(seed)
    model, before = language_model(gpt2, n_layer=2), None
    widget = LensWidget(model, PROMPT)
    hooks = n_hooks(model.hf_model)
    for i in range(n):
        widget.prompt = [rng.randrange(300) for _ in range(8)]
        widget.selection = {"layer": 1, "position": rng.randrange(8)}
        if i + 1 == max(1, n // 10):
            before = figures()
    after = figures()
    assert n_hooks(model.hf_model) == hooks
    widget.close()
    return before, after


def widgets(n, seed=0):
    """Make, use and close `n` widgets of one model; the figures after a tenth of them, and after all."""
    model, before, alive = language_model(gpt2, n_layer=2), None, weakref.WeakSet()
    for i in range(n):
        widget = LensWidget(model, PROMPT)
        widget.selection = {"layer": 1, "position": 2}
        alive.add(widget)
        widget.close()
        del widget
        if i + 1 == max(1, n // 10):
            before = figures()
    after = figures()
    assert not len(alive)
    return before, after
