"""The open traces of the running code, by which a module finds the trace that its values belong to."""

import contextvars
from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from lenswidget.errors import TraceError
from lenswidget.tracing.moments import ModuleRef
from lenswidget.tracing.save_method import offer_save, withdraw_save


class OpenTrace(ABC):
    """What a module asks of the trace that is open around it; `Trace` is the one that does it.

    Attributes:
        root: the model that is traced.
    """

    root: nn.Module

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether the `with` block still runs."""

    @abstractmethod
    def read(self, ref: ModuleRef, kind: str) -> Any:
        """The "output" or "input" of a module."""

    @abstractmethod
    def write(self, ref: ModuleRef, kind: str, value: Any) -> None:
        """Replace the "output" or "input" of a module."""

    @abstractmethod
    def skip(self, ref: ModuleRef, value: Any) -> None:
        """Let a module return `value` without running."""


# Open traces of this context, innermost last.
open_traces: contextvars.ContextVar[tuple[OpenTrace, ...]] = contextvars.ContextVar("open_traces", default=())


def open_trace(trace: OpenTrace) -> None:
    """Make `trace` the innermost open one of this context, and give tensors their `.save()`."""
    outer = open_traces.get()
    if outer:  # one that was closed in another context is still here
        outer = tuple(one for one in outer if one.is_open)
    open_traces.set((*outer, trace))
    offer_save(trace)


def innermost_trace(root: nn.Module, name: str, asked: str) -> OpenTrace:
    """The trace of this model that was opened last and is still open.

    Args:
        root: the model.
        name: of the module in it that is asked for something.
        asked: what it is asked for.
    Raises:
        TraceError: none is open.
    """
    # one may have been closed in another context
    traces = tuple(trace for trace in open_traces.get() if trace.is_open)
    for trace in reversed(traces):
        if trace.root is root:
            return trace
    found = (
        f"the open trace is of another model ({type(traces[-1].root).__name__})" if traces else "none is open"
    )
    raise TraceError(
        f"Asked for {name or 'the model'}.{asked}, which exists only in a trace of its model, but {found}. "
        "Write `with model.trace(prompt):` around it."
    )


def close_trace(trace: OpenTrace) -> None:
    """Undo `open_trace`; calling it again does nothing."""
    open_traces.set(tuple(one for one in open_traces.get() if one is not trace))
    withdraw_save(trace)
