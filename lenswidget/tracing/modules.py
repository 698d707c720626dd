"""The modules of a traced model, each with the values that it takes and returns in a trace."""

import difflib
import operator
from collections.abc import Iterator
from typing import Any

from torch import nn

from lenswidget.errors import NotReachedError, TraceError
from lenswidget.tracing.aliases import Aliases
from lenswidget.tracing.locks import lock_of
from lenswidget.tracing.moments import ModuleRef
from lenswidget.tracing.nnsight_names import OF_A_MODULE
from lenswidget.tracing.open_traces import OpenTrace, innermost_trace, open_traces
from lenswidget.tracing.values import plain

_SETTABLE = ("output", "input", "inputs")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def _children(module: nn.Module) -> dict[str, nn.Module | None]:
    # `named_children` leaves out a child's second name
    return module._modules  # pyright: ignore[reportPrivateUsage]


class TracedModule:
    """One module of a traced model.

    Submodules are reached as in the model itself, by attribute and by index; every other attribute is the
    wrapped module's own. A submodule whose name is taken here (BERT has some called `output`) is reached
    with `get`.
    """

    __slots__ = ("__weakref__", "_aliases", "_ref", "_root")
    _root: nn.Module
    _ref: ModuleRef
    _aliases: Aliases

    def __init__(self, root: nn.Module, ref: ModuleRef, aliases: Aliases) -> None:
        object.__setattr__(self, "_root", root)  # the model, in whose traces the module has values
        object.__setattr__(self, "_ref", ref)
        object.__setattr__(self, "_aliases", aliases)

    @property
    def path(self) -> str:
        """Where the module is in the model, as `"transformer.h.5.mlp"`; empty for the model itself."""
        return self._ref.path

    @property
    def wrapped(self) -> nn.Module:
        """The module itself."""
        return self._ref.module

    @property
    def output(self) -> Any:
        """What the module returns in this trace: tensors, tuples and model outputs as they are.

        A decoder block's output is usable both as the hidden states `[batch, seq, d_model]` and as the tuple
        that holds them: see `BlockOutput`. Reading it runs the forward until it is there, and no further.
        Reading what the forward has already passed runs it again from the start, with the edits made so far:
        correct, at the cost of one more forward. Assigning it changes what the rest of the forward sees; so
        does changing it in place.

        Raises:
            NotReachedError: the module does not run in this forward.
            OutOfOrderError: on assignment, the forward has passed it; on reading, a generation has.
            ShapeError: on assignment, another shape, dtype, device or structure.
            TraceError: no trace of this model is open.
        """
        return self._trace("output").read(self._ref, "output")

    @output.setter
    def output(self, value: Any) -> None:
        self._trace("output").write(self._ref, "output", value)

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the module is given in this trace, `(args, kwargs)`; read and assigned as `output` is."""
        return self._trace("inputs").read(self._ref, "input")

    @inputs.setter
    def inputs(self, value: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        self._trace("inputs").write(self._ref, "input", value)

    @property
    def input(self) -> Any:
        """The first positional argument of the module; the first keyword argument if there is none.

        Read and assigned as `output` is.
        """
        args, kwargs = self.inputs
        if not args and not kwargs:
            raise NotReachedError(f"Asked for {self._label()}.input, but it is called without arguments.")
        return args[0] if args else next(iter(kwargs.values()))

    @input.setter
    def input(self, value: Any) -> None:
        args, kwargs = self.inputs
        if args:
            args = (value, *args[1:])
        else:
            kwargs = {**kwargs, next(iter(kwargs), ""): value}
        self._trace("input").write(self._ref, "input", (args, kwargs))

    def skip(self, value: Any) -> None:
        """Let the module return `value` in this trace without running.

        Args:
            value: what it returns instead. For a decoder block that returns a tuple, give the hidden states
                `[batch, seq, d_model]` alone.
        Raises:
            OutOfOrderError: the module has run, or is running.
        """
        self._trace("skip()").skip(self._ref, value)

    @property
    def calls(self) -> "ModuleCalls":
        """The module's calls, if it runs several times in one forward: `module.calls[1].output`."""
        return ModuleCalls(self)

    def get(self, path: str) -> "TracedModule":
        """The module at a path below this one, as `"h.5.mlp"`; an empty path is the module itself.

        Raises:
            TraceError: there is none.
        """
        found: TracedModule = self
        for name in path.split(".") if path else ():
            found = found._child(name)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module on these values now, in a trace or outside; the trace's forward is not affected."""
        args, kwargs = plain(args), plain(kwargs)
        with lock_of(self._root):
            return self._ref.module(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # a misspelt `output` would be kept here, and change nothing in the model
        if not hasattr(type(self), name) and not self._may_keep(name):
            close = difflib.get_close_matches(name, _SETTABLE, 1)
            remedy = f"Did you mean {close[0]!r}?" if close else "To change the module itself, use .wrapped."
            raise AttributeError(
                f"Asked to set {self._label()}.{name}; what can be set is {', '.join(_SETTABLE)}. {remedy}"
            )
        object.__setattr__(self, name, value)

    def _may_keep(self, name: str) -> bool:
        """Whether an attribute that the class does not have may be set."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module = self._ref.module
        if name in _children(module) or self._aliases.path(module, name):
            return self._child(name)
        try:
            return getattr(module, name)
        except AttributeError:
            names = [*_children(module), *self._aliases.names(module)]
            close = difflib.get_close_matches(name, names, 1)
            remedy = f"Did you mean {close[0]!r}?" if close else f"Its modules: {', '.join(names) or 'none'}."
            remedy = OF_A_MODULE.get(name, remedy)
            raise AttributeError(f"{self._label()} has no attribute {name!r}. {remedy}") from None

    def __getitem__(self, index: Any) -> Any:
        module = self._ref.module
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if isinstance(index, str):
            return self._child(index)
        position = operator.index(index)
        names = list(_children(module))
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            raise TypeError(f"{self._label()} is a {type(module).__name__}, which is not indexed by number.")
        if not -len(names) <= position < len(names):
            raise IndexError(f"Asked for {self._label()}[{position}], which has {len(names)} modules.")
        return self._child(names[position])

    def __iter__(self) -> Iterator["TracedModule"]:
        return iter([self._child(name) for name in _children(self._ref.module)])

    def __len__(self) -> int:
        return len(_children(self._ref.module))

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        module = self._ref.module
        return [*super().__dir__(), *_children(module), *self._aliases.names(module)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TracedModule) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label()}: {type(self._ref.module).__name__}>"

    def _identity(self) -> tuple[nn.Module, str, int]:
        return self._root, self.path, self._ref.call

    def _trace(self, asked: str) -> OpenTrace:
        traces = open_traces.get()
        # nearly always this one: the other way ends in an error or finds an outer trace
        if traces and traces[-1].root is self._root:
            return traces[-1]
        return innermost_trace(self._root, self._ref.name, asked)

    def _label(self) -> str:
        return self._ref.name or "the model"

    def _at_call(self, call: int) -> "TracedModule":
        return TracedModule(self._root, self._ref._replace(call=call), self._aliases)

    def _child(self, name: str) -> "TracedModule":
        ref = self._ref
        child = _children(ref.module).get(name)
        if child is None:
            return self._child_by_alias(name)
        path = _joined(ref.path, name)
        alias = _joined(ref.alias, name) if ref.alias else ""
        ancestors = ref.ancestors if isinstance(ref.module, _CONTAINERS) else (*ref.ancestors, ref.module)
        return TracedModule(self._root, ModuleRef(path, child, ancestors, alias=alias), self._aliases)

    def _child_by_alias(self, name: str) -> "TracedModule":
        ref = self._ref
        path = self._aliases.path(ref.module, name)
        if path is None:
            names = ", ".join([*_children(ref.module), *self._aliases.names(ref.module)]) or "none"
            raise TraceError(f"Asked for module {name!r} of {self._label()}, whose modules are: {names}.")
        found = self.get(path)._ref._replace(alias=_joined(ref.name, name))
        return TracedModule(self._root, found, self._aliases)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class ModuleCalls:
    """The calls of a module within one forward, from 0; each is read and changed like the module."""

    __slots__ = ("_module",)

    def __init__(self, module: TracedModule) -> None:
        self._module = module

    def __getitem__(self, index: int) -> TracedModule:
        return self._module._at_call(operator.index(index))  # pyright: ignore[reportPrivateUsage]

    def __iter__(self) -> Iterator[TracedModule]:
        index = 0
        while True:
            call = self[index]
            try:
                _ = call.inputs
            except NotReachedError:
                return
            yield call
            index += 1
