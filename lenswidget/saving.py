"""`.save()` on tensors while a trace is open: nothing here needs it, code written for nnsight calls it."""

import sys
import threading
from typing import Any

from torch import Tensor

_n_open = 0
_guard = threading.Lock()


def _save(self: Any) -> Any:
    return self


def _classes() -> list[type]:
    outputs = sys.modules.get("transformers.utils.generic")
    return [Tensor] if outputs is None else [Tensor, outputs.ModelOutput]


def begin_saving() -> None:
    """A trace has opened: tensors and model outputs have `.save()`, which returns them."""
    global _n_open
    with _guard:
        _n_open += 1
        if _n_open == 1:
            for cls in _classes():
                cls.save = _save  # type: ignore[attr-defined]


def end_saving() -> None:
    """A trace has closed; with the last one, `.save` is gone."""
    global _n_open
    with _guard:
        _n_open -= 1
        if _n_open == 0:
            for cls in _classes():
                if cls.__dict__.get("save") is _save:
                    del cls.save  # type: ignore[attr-defined]
