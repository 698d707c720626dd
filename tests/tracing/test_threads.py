"""Threads beside an open trace: calls of the model run past its hooks, and a forked child is usable."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from tiny import IDS, Counted, gpt2, n_hooks

import lenswidget as lw
from lenswidget.tracing.locks import ModelLock, lock_of
from lenswidget.tracing.save_method import traces_after_fork


def trace_everything(model, ids, rounds):
    """Traces with every kind of request, one after the other, for as long as `rounds` yields."""
    for _ in rounds:
        with torch.no_grad(), model.trace(ids) as tracer:
            model.transformer.h[1].output = model.transformer.h[1].output * 2
            model.transformer.h[2].skip(model.transformer.h[2].input)
            _ = model.transformer.h[3].output
            _ = model.transformer.h[0].output  # a replay
            _ = tracer.result


def test_a_thread_that_calls_the_model_itself_runs_past_an_open_trace():
    hf_model = gpt2()
    model = lw.LanguageModel(hf_model, None)
    other_ids = torch.tensor([IDS[::-1]])
    with torch.no_grad():
        quiet = hf_model(input_ids=other_ids, use_cache=False).logits
        with model.trace(IDS) as tracer:
            model.transformer.h[1].output = model.transformer.h[1].output * 2
            model.transformer.h[2].skip(model.transformer.h[2].input)
            edited = tracer.result.logits
    before = n_hooks(hf_model)
    ended, errors, same = threading.Event(), [], []

    def rounds():
        while not ended.is_set():
            yield

    def trace():
        try:
            trace_everything(model, IDS, rounds())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=trace)
    thread.start()
    try:
        with torch.no_grad():
            for _ in range(500):
                same.append(torch.equal(hf_model(input_ids=other_ids, use_cache=False).logits, quiet))
    finally:
        ended.set()
        thread.join()
    assert errors == []
    assert same == [True] * 500
    assert n_hooks(hf_model) == before
    with torch.no_grad(), model.trace(IDS) as tracer:
        model.transformer.h[1].output = model.transformer.h[1].output * 2
        model.transformer.h[2].skip(model.transformer.h[2].input)
        assert torch.equal(tracer.result.logits, edited)


@pytest.mark.parametrize("moment", ["waits to be skipped", "is skipped"])
def test_a_call_on_another_thread_is_not_skipped(moment):
    module = Counted()
    model, x = lw.TracedModel(module), torch.ones(2, 8)
    expected = module(x)
    found = []
    with model.trace(x) as tracer:
        block = model.blocks[2]
        given = block.input
        if moment == "is skipped":
            block.skip(given * 0)
        thread = threading.Thread(target=lambda: found.append(module(x)))
        thread.start()
        thread.join()
        if moment == "is skipped":
            assert torch.equal(block.output, given * 0)
        _ = tracer.result
    assert torch.equal(found[0], expected)


# --- the lock


def test_the_lock_is_taken_in_turn_by_threads_that_wait():
    lock, inside, most = ModelLock(), [], []

    def work():
        for _ in range(50):
            with lock, lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 200
    assert lock.acquire(blocking=False)
    lock.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_a_lock_whose_owner_has_died_is_free_and_one_that_is_held_times_out():
    lock = ModelLock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.acquire(timeout=1.0)
    taken = []
    thread = threading.Thread(
        target=lambda: taken.extend([lock.acquire(blocking=False), lock.acquire(timeout=0.05)])
    )
    thread.start()
    thread.join()
    assert taken == [False, False]


# --- forks


def test_a_forked_child_knows_the_traces_that_were_open():
    model = lw.LanguageModel(gpt2(), None)
    with model.trace(IDS) as tracer:
        assert traces_after_fork() == [tracer]
    assert traces_after_fork() == []


# run in a process of its own: a fork of the tests' process would carry their other threads' locks along
FORKED = """
import os, signal, sys, threading
sys.path.insert(0, "tests/support")
import torch
import lenswidget as lw
from lenswidget.tracing import locks, save_method
from lenswidget.tracing.locks import lock_of
from tiny import Counted, n_hooks

torch.set_num_threads(1)
module, x = Counted(), torch.ones(2, 8)
model = lw.TracedModel(module)
expected, before = module(x), n_hooks(module)
is_open, may_end = threading.Event(), threading.Event()

def trace():
    with model.trace(x):
        model.blocks[2].skip(model.blocks[2].input)
        # as if the fork came while this thread was in the midst of opening another
        with locks._registry, save_method._guard, model.lock._guard:
            is_open.set()
            may_end.wait()

thread = threading.Thread(target=trace)
thread.start()
is_open.wait()

def fork(in_child):
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(60)  # ends a child that waits for ever
            in_child()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def use_the_model():
    assert n_hooks(module) == before, n_hooks(module)
    assert not hasattr(torch.Tensor, "save")
    with model.trace(x) as tracer:
        early = model.blocks[0].output
        assert torch.equal(tracer.result, expected)
        assert torch.equal(model.blocks[1].input, torch.tanh(early))
    assert lock_of(Counted()).acquire(timeout=1.0)
    assert n_hooks(module) == before

fork(use_the_model)
assert thread.is_alive() and n_hooks(module) > before  # the parent's trace is still open
may_end.set()
thread.join()
assert n_hooks(module) == before
with model.trace(x) as tracer:
    _ = model.blocks[1].output

    def go_on():
        assert torch.equal(tracer.result, expected)

    fork(go_on)  # from within a trace: it goes on in both
    assert torch.equal(tracer.result, expected)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_while_another_thread_traces_is_usable():
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "fine\n", done.stderr[-3000:]


def test_a_model_has_one_lock():
    module = Counted()
    assert lock_of(module) is lw.TracedModel(module).lock is lw.TracedModel(module).lock
