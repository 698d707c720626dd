"""`.save()` on tensors while a trace is open: nothing here needs it, code written for nnsight calls it."""

import threading
import weakref
from typing import Any

from torch import Tensor

_n_open = 0
_guard = threading.Lock()


def _save(self: Any) -> Any:
    return self


def add_save(output: Any) -> bool:
    """Give one model output a `.save()`; whether it took one.

    The class has hundreds of subclasses, and to change it would slow the next access to each of them.
    """
    if not isinstance(output, dict) or not hasattr(output, "__dict__"):
        return False
    itself: weakref.ref[Any] = weakref.ref(output)

    def save() -> Any:
        return itself()

    output.__dict__["save"] = save
    return True


def take_save(output: Any) -> None:
    """Take away what `add_save` gave."""
    output.__dict__.pop("save", None)


def begin_saving() -> None:
    """A trace has opened: tensors have `.save()`, which returns them."""
    global _n_open
    with _guard:
        _n_open += 1
        if _n_open == 1:
            Tensor.save = _save  # type: ignore[attr-defined]  # the seed's own method


def end_saving() -> None:
    """A trace has closed; with the last one, `.save` is gone."""
    global _n_open
    with _guard:
        _n_open -= 1
        if _n_open == 0:
            del Tensor.save  # type: ignore[attr-defined]  # set above
