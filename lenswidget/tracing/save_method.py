"""`.save()` on tensors and outputs while a trace is open, for code that was written for nnsight."""

import threading
import weakref
from typing import Any

from torch import Tensor

# by id: a trace that is not closed must not live longer for it
_open: dict[int, weakref.ref[Any]] = {}
_guard = threading.Lock()


def _save(self: Any) -> Any:
    return self


def offer_save(trace: object) -> None:
    """Give tensors a `.save()` that returns them, while any trace is open."""
    with _guard:
        _open[id(trace)] = weakref.ref(trace)
        if len(_open) == 1:
            Tensor.save = _save  # type: ignore[attr-defined]  # the seed's own method


def withdraw_save(trace: object) -> None:
    """Remove `.save()` when the last trace closes; calling it again does nothing."""
    with _guard:
        _open.pop(id(trace), None)
        if not _open and "save" in Tensor.__dict__:
            del Tensor.save  # type: ignore[attr-defined]  # set above


def traces_after_fork() -> list[Any]:
    """In a forked child: the traces that were open in any thread, with the guard made free."""
    global _guard
    _guard = threading.Lock()
    return [trace for trace in [reference() for reference in _open.values()] if trace is not None]


def add_save(output: dict[Any, Any]) -> bool:
    """Give one model output a `.save()`; returns whether it could be given one.

    On the object: the class has hundreds of subclasses, and changing it slows the next access to each.
    """
    if not hasattr(output, "__dict__"):
        return False
    itself: weakref.ref[Any] = weakref.ref(output)

    def save() -> Any:
        return itself()

    output.__dict__["save"] = save
    return True


def take_save(output: Any) -> None:
    """Undo `add_save`."""
    output.__dict__.pop("save", None)
