"""`.save()` on tensors and outputs while a trace is open, for code that was written for nnsight."""

import threading
import weakref
from typing import Any

from torch import Tensor

_open: set[int] = set()
_guard = threading.Lock()


def _save(self: Any) -> Any:
    return self


def offer_save(trace: object) -> None:
    """From the first open trace on, tensors have `.save()`, which returns them."""
    with _guard:
        _open.add(id(trace))
        if len(_open) == 1:
            Tensor.save = _save  # type: ignore[attr-defined]  # the seed's own method


def withdraw_save(trace: object) -> None:
    """With the last open trace, `.save` is gone. Again, it does nothing."""
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
