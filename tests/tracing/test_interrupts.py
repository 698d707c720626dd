"""An interrupt at any line of the tracing code leaves no hook, no stub, no held lock and no open trace."""

import gc
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny import n_hooks
from torch import nn

import lenswidget as lw
import lenswidget.tracing as package
from lenswidget.errors import NotReachedError, TraceError
from lenswidget.tracing import isolation
from lenswidget.tracing.open_traces import innermost_trace

FOLDER = str(Path(package.__file__).parent)
# Lines at which Python looks for no signal: they call nothing, or only a plain lock on entering and leaving.
SILENT = ("try:", "finally:", "with self._guard:", "with _guard:", "with _registry:")


class Parts(nn.Module):
    """Four blocks, and a module that never runs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.unused = nn.Linear(4, 4)


class Moded(Parts):
    """The blocks are run without gradients and under autocast."""

    def forward(self, x):
        with torch.no_grad():
            for block in self.blocks[:3]:
                x = torch.tanh(block(x))
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            return self.blocks[3](x.clone())


class Inferring(Parts):
    """The blocks are run in inference mode, and out of it again."""

    def forward(self, x):
        with torch.inference_mode():
            for block in self.blocks[:3]:
                x = torch.tanh(block(x))
        with torch.inference_mode(False):
            x = x.clone()
        return self.blocks[3](x)


def open_and_close(model, tracer):
    pass


def read(model, tracer):
    _ = model.blocks[1].output
    _ = tracer.result


def write(model, tracer):
    model.blocks[0].output = model.blocks[0].output * 2
    model.blocks[1].output.mul_(2)
    _ = model.blocks[3].output


def skip(model, tracer):
    model.blocks[2].skip(model.blocks[2].input)
    _ = model.blocks[3].input


def replay(model, tracer):
    model.blocks[0].output = model.blocks[0].output * 2
    model.blocks[2].skip(model.blocks[2].input)
    _ = model.blocks[3].output
    _ = model.blocks[1].output


def look_for_what_never_runs(model, tracer):
    _ = model.blocks[1].output
    try:
        _ = model.unused.output
    except NotReachedError:
        _ = model.blocks[2].output


def cache(model, tracer):
    tracer.cache(modules=["blocks.1"])


def stop(model, tracer):
    _ = model.blocks[1].output
    tracer.stop()


def interrupted(model, body, at):
    """Run a trace with an interrupt at the given line event, or none; the line events met."""
    met = Counter()

    def on_line(frame, event, _):
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            met[place] += 1
            if at == (place, met[place]):
                raise KeyboardInterrupt
        return on_line

    def on_call(frame, *_):
        return on_line if frame.f_code.co_filename.startswith(FOLDER) else None

    before = sys.gettrace()
    try:
        with torch.no_grad():
            tracer = model.trace(torch.ones(1, 4))
            sys.settrace(on_call)
            with tracer:
                body(model, tracer)
    finally:
        sys.settrace(before)
    return met


def lines_of(met):
    """The first and the last event of each line at which Python may deliver an interrupt."""
    for (path, number), count in met.items():
        if Path(path).read_text().splitlines()[number - 1].strip() not in SILENT:
            yield from {((path, number), 1), ((path, number), count)}


def check_nothing_is_left(model, module, hooks, state):
    assert n_hooks(module) == hooks
    assert isolation.take() == state
    assert not hasattr(torch.Tensor, "save")
    with pytest.raises(TraceError, match="none is open"):
        innermost_trace(module, "", "anything")
    free = []
    thread = threading.Thread(target=lambda: free.append(model.lock.acquire(timeout=0.01)))
    thread.start()
    thread.join()
    assert free == [True]


def check_it_stays_so(state):
    """What a traceback held is freed with it: that changes nothing."""
    gc.collect(0)  # a full one takes longer than the rest of a try
    assert isolation.take() == state


BODIES = [open_and_close, read, write, skip, replay, look_for_what_never_runs, cache, stop]
# `write` edits in place what is no tensor of inference mode
CASES = [(Moded, body) for body in BODIES] + [(Inferring, body) for body in BODIES if body is not write]


@pytest.mark.parametrize(("made", "body"), CASES, ids=lambda each: each.__name__)
def test_an_interrupt_at_any_line_leaves_nothing_behind(made, body):
    module = made()
    model = lw.TracedModel(module)
    hooks, state = n_hooks(module), isolation.take()
    with torch.no_grad():
        expected = module(torch.ones(1, 4))
    interrupted(model, body, None)  # from here on the model is known
    tried, failed = 0, []
    for at in lines_of(interrupted(model, body, None)):
        tried += 1
        try:
            interrupted(model, body, at)
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            failed.append((at, error))
        try:
            check_nothing_is_left(model, module, hooks, state)
            check_it_stays_so(state)
        except AssertionError as error:
            failed.append((at, error))
            module = made()  # what is left must not be found again
            model, hooks = lw.TracedModel(module), n_hooks(module)
            interrupted(model, body, None)
    with torch.no_grad(), model.trace(torch.ones(1, 4)) as tracer:
        assert torch.equal(tracer.result, expected)
    assert tried > 100
    assert failed == []
