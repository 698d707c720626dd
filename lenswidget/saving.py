"""`.save()` while a trace is open: nothing here needs it, code written for nnsight calls it."""

import contextvars
import threading
import weakref
from typing import Any

from torch import Tensor

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
