"""Which traces are open, and `.save()` while any is: nothing needs it, code written for nnsight calls it."""

import contextvars
import threading
import weakref
from typing import Any

from torch import Tensor, nn

from lenswidget.errors import TraceError

# Those that the code at hand stands in, the innermost last.
open_traces: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("open_traces", default=())

_open: set[int] = set()
_guard = threading.Lock()


def _save(self: Any) -> Any:
    return self


def open_trace(trace: Any) -> None:
    """From here on the code stands in `trace`, and tensors have `.save()`, which returns them."""
    around = open_traces.get()
    if around:  # one that was closed in another context is still here
        around = tuple(one for one in around if one.is_open)
    open_traces.set((*around, trace))
    with _guard:
        _open.add(id(trace))
        if len(_open) == 1:
            Tensor.save = _save  # type: ignore[attr-defined]  # the seed's own method


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
    with _guard:
        _open.discard(id(trace))
        if not _open and "save" in Tensor.__dict__:
            del Tensor.save  # type: ignore[attr-defined]  # set above


def add_save(output: dict[Any, Any]) -> bool:
    """Give one model output a `.save()`; whether it took one.

    The class has hundreds of subclasses, and to change it would slow the next access to each of them.
    """
    if not hasattr(output, "__dict__"):
        return False
    itself: weakref.ref[Any] = weakref.ref(output)

    def save() -> Any:
        return itself()

    output.__dict__["save"] = save
    return True


def take_save(output: Any) -> None:
    """Take away what `add_save` gave."""
    output.__dict__.pop("save", None)
