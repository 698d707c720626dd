"""Which traces are open in the code at hand."""

import contextvars
from typing import Any

from torch import nn

from lenswidget.errors import TraceError
from lenswidget.tracing.save_method import offer_save, withdraw_save

# Open traces of this context, innermost last.
open_traces: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("open_traces", default=())


def open_trace(trace: Any) -> None:
    """From here on the code stands in `trace`, and tensors have `.save()`, which returns them."""
    around = open_traces.get()
    if around:  # one that was closed in another context is still here
        around = tuple(one for one in around if one.is_open)
    open_traces.set((*around, trace))
    offer_save(trace)


def innermost_trace(root: nn.Module, path: str, asked: str) -> Any:
    """The trace of this model that was opened last and is still open.

    Args:
        root: the model.
        path: of the module in it that is asked for something.
        asked: what it is asked for.
    Raises:
        TraceError: none is open.
    """
    traces = tuple(
        trace for trace in open_traces.get() if trace.is_open
    )  # one may have been closed elsewhere
    for trace in reversed(traces):
        if trace.root is root:
            return trace
    found = (
        f"the open trace is of another model ({type(traces[-1].root).__name__})" if traces else "none is open"
    )
    raise TraceError(
        f"Asked for {path or 'the model'}.{asked}, which exists only in a trace of its model, but {found}. "
        "Write `with model.trace(prompt):` around it."
    )


def close_trace(trace: Any) -> None:
    """Undo what `open_trace` did; with the last open trace, `.save` is gone. Again, it does nothing."""
    open_traces.set(tuple(one for one in open_traces.get() if one is not trace))
    withdraw_save(trace)
