"""Random programs of reads, writes, calls and skips, each compared with the same done by plain hooks."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import n_hooks
from torch import nn

import lenswidget as lw
from lenswidget.errors import OutOfOrderError

WIDTH = 3


class Part(nn.Module):
    def __init__(self, returns):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.returns = returns

    def forward(self, x, scale=None):
        x = x + self.gate(x) * self.inner(x)
        if scale is not None:
            x = x * scale
        return {"tensor": x, "tuple": (x, x.sum()), "dict": {"states": x, "none": None}}[self.returns]


class Net(nn.Module):
    """Parts that return a tensor, a tuple and a dict; one takes keywords, one runs twice, one never."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(WIDTH, WIDTH)  # registered first, runs last
        self.parts = nn.ModuleList([Part("tensor"), Part("tuple"), Part("dict")])
        self.shared = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.shared(self.parts[0](x))
        x = self.parts[1](x, scale=2.0)[0]
        x = self.parts[2](x=x)["states"]
        return self.last(self.shared(x))


torch.manual_seed(0)
NET = Net().double()
X = torch.randn(2, WIDTH, dtype=torch.float64)


def states(value):
    """The one tensor that a program reads and edits in any value: output, or (args, kwargs)."""
    if isinstance(value, dict):
        value = tuple(value.values())
    while isinstance(value, tuple):
        value = next(item for item in value if item not in ((), {}) or isinstance(item, torch.Tensor))
        value = tuple(value.values()) if isinstance(value, dict) else value
    return value


def with_states(value, new):
    """The same value around another tensor."""
    if isinstance(value, torch.Tensor):
        return new
    if isinstance(value, dict):
        key = next(iter(value))
        return {**value, key: new}
    if len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], dict):  # (args, kwargs)
        args, kwargs = value
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): new})
    return (new, *value[1:])


def in_place(tensor, scale):
    with torch.no_grad():
        return tensor.mul_(scale)


def by_hand(edits, skips=()):
    """One forward with plain hooks: the value at every point, as (path, kind, call), and the result.

    `edits` maps points to functions of the tensor there; `skips` maps paths to functions of a module's input.
    """
    seen, handles, restored = {}, [], []
    calls = {}

    def hook_input(path):
        def hook(module, args, kwargs):
            point = (path, "input", calls.setdefault((path, "input"), 0))
            calls[path, "input"] += 1
            seen[point] = states((args, kwargs)).clone()
            tensor = states((args, kwargs))
            for edit in edits.get(point, ()):
                tensor = edit(tensor)
            return with_states((args, kwargs), tensor)

        return hook

    def hook_output(path):
        def hook(module, args, output):
            point = (path, "output", calls.setdefault((path, "output"), 0))
            calls[path, "output"] += 1
            seen[point] = states(output).clone()
            tensor = states(output)
            for edit in edits.get(point, ()):
                tensor = edit(tensor)
            return with_states(output, tensor)

        return hook

    for path, module in NET.named_modules():
        handles.append(module.register_forward_pre_hook(hook_input(path), with_kwargs=True))
        handles.append(module.register_forward_hook(hook_output(path)))
        if path in skips:
            restored.append(module)
            module.forward = lambda *args, path=path, **kwargs: skips[path](states((args, kwargs)))
    try:
        result = NET(X.clone())
    finally:
        for handle in handles:
            handle.remove()
        for module in restored:
            del module.forward
    return seen, result


POINTS = list(by_hand({})[0])
LEAVES = [
    path
    for path, module in NET.named_modules()
    if isinstance(module, nn.Linear) and path not in ("unused", "shared")
]

point = st.integers(0, len(POINTS) - 1)
factor = st.sampled_from([-1.0, 0.5, 2.0])
operation = st.one_of(
    st.tuples(st.just("read"), point),
    st.tuples(st.just("write"), point, factor),
    st.tuples(st.just("edit in place"), factor),
    st.tuples(st.just("call"), st.sampled_from(LEAVES)),
    st.tuples(st.just("skip"), st.sampled_from(LEAVES), factor),
    st.tuples(st.just("result")),
)


class Checked:
    """Runs a program in a trace, and after each operation compares with the forward done by hand."""

    def __init__(self, model, tracer):
        self.model, self.tracer = model, tracer
        self.edits, self.skips, self.read = {}, {}, {}
        self.at = -1  # index of the furthest point reached; len(POINTS) at the end

    def node(self, path, call):
        return self.model.get(path).calls[call]

    def value(self, index):
        path, kind, call = POINTS[index]
        node = self.node(path, call)
        return node.output if kind == "output" else node.inputs

    def is_skipped(self, index):
        """Whether this is what a skipped module was given: it no longer matters."""
        return POINTS[index][0] in self.skips and POINTS[index][1] == "input"

    def do_read(self, index):
        value = states(self.value(index))
        if index in self.read:
            assert value is self.read[index]
            return
        seen, _ = by_hand(self.edits, self.skips)
        assert torch.equal(value, seen[POINTS[index]])
        self.read[index] = value
        self.at = max(self.at, index)

    def do_write(self, index, scale):
        path, kind, call = POINTS[index]
        node = self.node(path, call)
        if self.is_skipped(index):
            return
        if index < self.at:
            # the value to write must come from somewhere: this reads it, by a replay if need be
            self.do_read(index)
            with pytest.raises(OutOfOrderError):
                self.assign(node, kind, self.read[index] * scale)
            return
        self.do_read(index)
        new = self.read[index] * scale
        self.assign(node, kind, new)
        self.read[index] = new
        self.edits.setdefault(POINTS[index], []).append(lambda tensor: tensor * scale)

    def assign(self, node, kind, new):
        if kind == "output":
            node.output = with_states(node.output, new)
        else:
            node.inputs = with_states(node.inputs, new)

    def do_edit_in_place(self, scale):
        if self.at in self.read and not self.is_skipped(self.at):
            in_place(self.read[self.at], scale)
            self.edits.setdefault(POINTS[self.at], []).append(lambda tensor: in_place(tensor, scale))

    def do_call(self, path):
        given = torch.ones(1, WIDTH, dtype=torch.float64)
        assert torch.equal(self.model.get(path)(given), NET.get_submodule(path)(given))

    def do_skip(self, path, scale):
        index = POINTS.index((path, "input", 0))
        if index < self.at or path in self.skips:
            return
        self.do_read(index)
        given = self.read[index]
        self.model.get(path).skip(given * scale)
        self.skips[path] = lambda tensor: tensor * scale

    def do_result(self):
        assert torch.equal(self.tracer.result, by_hand(self.edits, self.skips)[1])
        self.at = len(POINTS)


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(program=st.lists(operation, max_size=12), mode=st.sampled_from(sorted(MODES)), is_known=st.booleans())
def test_any_program_gives_what_plain_hooks_give(program, mode, is_known):
    model = lw.TracedModel(NET)
    before = n_hooks(NET)
    with MODES[mode]():
        if is_known:  # a model that has run to its end before is watched less
            with model.trace(X) as tracer:
                _ = tracer.result
        with model.trace(X.clone()) as tracer:
            checked = Checked(model, tracer)
            for name, *arguments in program:
                getattr(checked, f"do_{name.replace(' ', '_')}")(*arguments)
            with contextlib.suppress(OutOfOrderError):
                checked.do_result()
    assert n_hooks(NET) == before
