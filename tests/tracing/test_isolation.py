"""What body and forward switch on in torch stays on their own side, and ends with the trace."""

import contextlib
import contextvars
import gc
import threading

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lenswidget as lw
from lenswidget.tracing import isolation


class Passing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class PassingDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "no inference_mode": lambda: torch.inference_mode(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "default dtype": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
    "default device": lambda: default_device("meta"),
    "function mode": Passing,
    "dispatch mode": PassingDispatch,
    "saved tensor hooks": lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
}


class Moded(nn.Module):
    """Switches a mode on for the middle one of three parts, and notes what it finds around each."""

    def __init__(self, mode):
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in range(3))
        self.mode, self.found = mode, []

    def forward(self, x):
        self.found.append(isolation.take())
        self.parts[0](x)
        with self.mode():
            self.found.append(isolation.take())
            self.parts[1](x)
            self.found.append(isolation.take())
        self.parts[2](x)
        self.found.append(isolation.take())
        return x


def states_without_trace(mode, ambient):
    module = Moded(mode)
    with ambient():
        module(torch.ones(1))
    return module.found


def is_alike(a, b):
    """States compared field by field; modes by their kind, being made anew each time."""

    def kinds(state):
        return [
            [
                type(item) if not isinstance(item, (tuple, bool, torch.dtype)) else len(str(item))
                for item in field
            ]
            if isinstance(field, tuple)
            else (
                type(field)
                if field is not None and not isinstance(field, (bool, torch.dtype, torch.device))
                else field
            )
            for field in state
        ]

    return kinds(a) == kinds(b)


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", ["none", "no_grad", "inference_mode", "autocast"])
def test_a_mode_of_the_forward_stays_in_the_forward(inner, outer):
    ambient = MODES.get(outer, contextlib.nullcontext)
    module = Moded(MODES[inner])
    model = lw.TracedModel(module)
    untouched = isolation.take()
    with ambient():
        before = isolation.take()
        with model.trace(torch.ones(1)) as tracer:
            for part in model.parts:
                _ = part.output
                assert isolation.take() == before
            _ = tracer.result
            assert isolation.take() == before
        assert isolation.take() == before
        with model.trace(torch.ones(1)):  # abandoned where the mode is on
            _ = model.parts[1].output
        assert isolation.take() == before
    assert isolation.take() == untouched
    # and the forward saw what it sees without a trace
    expected = states_without_trace(MODES[inner], ambient)
    assert all(is_alike(a, b) for a, b in zip(module.found, expected, strict=False))


@pytest.mark.parametrize("inner", MODES)
def test_a_mode_of_the_body_stays_in_the_body(inner):
    module = Moded(contextlib.nullcontext)
    model = lw.TracedModel(module)
    before = isolation.take()
    with model.trace(torch.ones(1)) as tracer:
        _ = model.parts[0].output
        with MODES[inner]():
            mine = isolation.take()
            _ = model.parts[1].output
            assert isolation.take() == mine
        assert isolation.take() == before
        _ = tracer.result
    assert isolation.take() == before
    assert all(state == before for state in module.found)


def test_modes_of_both_sides_interleave():
    module = Moded(torch.inference_mode)
    model = lw.TracedModel(module)
    before = isolation.take()
    with model.trace(torch.ones(1)) as tracer:
        _ = model.parts[1].output
        with torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16):
                _ = model.parts[2].output
                assert torch.is_inference_mode_enabled()
                assert torch.is_autocast_enabled("cpu")
            _ = tracer.result
            assert torch.is_inference_mode_enabled()
        assert isolation.take() == before
    assert isolation.take() == before
    torch.ones(1, requires_grad=True).sum().backward()  # autograd still works


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_a_trace_that_another_thread_ends_leaves_the_modes_of_both_alone(how):
    model = lw.TracedModel(Moded(torch.inference_mode))
    before = isolation.take()

    def body():
        with model.trace(torch.ones(1)):
            yield model.parts[1].output

    kept = [body()]
    next(kept[0])
    seen = []

    def end():
        seen.append(isolation.take())
        if how == "closed":
            kept[0].close()
        kept.clear()
        gc.collect()
        seen.append(isolation.take())

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert seen[0] == seen[1]
    assert isolation.take() == before
    with model.trace(torch.ones(1)):
        assert model.parts[1].output.shape == (1,)


def test_context_variables_stay_on_their_side():
    variable = contextvars.ContextVar("variable", default="nothing")

    class Setting(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()
            self.seen = None

        def forward(self, x):
            variable.set("the forward's")
            x = self.part(x)
            self.seen = variable.get()
            return x

    module = Setting()
    model = lw.TracedModel(module)
    variable.set("ambient")
    with model.trace(torch.ones(1)) as tracer:
        _ = model.part.output
        assert variable.get() == "ambient"
        variable.set("the body's")
        _ = tracer.result
        assert module.seen == "the forward's"
    assert variable.get() == "the body's"
