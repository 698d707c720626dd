"""What goes from one process to another: small values as they are; runs, lenses and the model by name."""

import io
import pickle
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenswidget.errors import LensError

# Whose classes and functions both processes have. A function of the notebook's own is in one of them alone.
_SHARED = frozenset({"lenswidget", "torch", "numpy", "transformers", "PIL", "builtins", "copyreg"})
_SHARED_MORE = frozenset({"collections", "pathlib", "datetime", "operator"})
# The name of a value: what `persistent_id` may be. None is a value that is sent as it is.
Name = tuple[Any, ...] | None


def dumps(value: Any, name_of: Callable[[Any], Name]) -> bytes:
    """A value as bytes.

    Args:
        name_of: gives the name that is sent in place of a value, or None.
    Raises:
        LensError: a function or a class that the other process does not have.
    """
    out = io.BytesIO()
    _Outgoing(out, name_of).dump(value)
    return out.getvalue()


def loads(data: bytes, object_of: Callable[[Any], Any]) -> Any:
    """The value that `dumps` wrote; `object_of` gives what a name stands for."""
    return _Incoming(io.BytesIO(data), object_of).load()


def content_of(value: Any) -> tuple[Any, ...]:
    """What makes a value again, as `pickle` has it: to be sent inside its name."""
    return value.__reduce_ex__(4)[:3]


def rebuilt(content: tuple[Any, ...]) -> Any:
    """The value of a `content_of`."""
    function, args = content[:2]
    state: Any = content[2] if len(content) > 2 else None
    value = function(*args)
    if hasattr(value, "__setstate__"):
        value.__setstate__(state)
    elif state:
        value.__dict__.update(state)
    return value


class _Outgoing(pickle.Pickler):
    def __init__(self, out: io.BytesIO, name_of: Callable[[Any], Name]) -> None:
        super().__init__(out, protocol=5)
        self._name_of = name_of

    def persistent_id(self, obj: Any) -> Any:
        return self._name_of(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, MappingProxyType):
            return _frozen, (dict(obj),)
        if isinstance(obj, Tensor):
            return _tensor, _bytes_of(obj)
        if isinstance(obj, (type, FunctionType, BuiltinFunctionType)):
            _check_shared(obj)
        return NotImplemented


class _Incoming(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, object_of: Callable[[Any], Any]) -> None:
        super().__init__(data)
        self._object_of = object_of

    def persistent_load(self, pid: Any) -> Any:
        return self._object_of(pid)


def _check_shared(value: Any) -> None:
    module = getattr(value, "__module__", None) or "builtins"
    name = getattr(value, "__qualname__", repr(value))
    is_shared = module.partition(".")[0].lstrip("_") in _SHARED | _SHARED_MORE
    if not is_shared or "<" in name:
        raise LensError(
            f"Asked to send {name} of {module} to the model's process, which does not have it. Recipes, "
            "edits and fitted lenses cross; a function or class of your own is given to the model where it "
            "is loaded: lw.connect(address, function_that_loads)."
        )


def _bytes_of(tensor: Tensor) -> tuple[Any, ...]:
    """Its bytes, dtype and shape: the bytes of a view alone, wherever it lies."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)


def _frozen(values: dict[str, Any]) -> Any:
    return MappingProxyType(values)


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """On the CPU."""
    own = np.array(data, copy=True)  # which may be written to
    return torch.from_numpy(own).view(dtype).reshape(shape)
