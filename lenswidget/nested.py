"""Nested values: tuples, lists, dicts and model outputs, walked in one place."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Key = int | str
# How deep a module's inputs and outputs are searched for tensors that may be the residual stream.
MAX_DEPTH = 3


@dataclass(frozen=True)
class Slot:
    """A place in a nested value: `()` is the value itself, `(0,)` its first element."""

    keys: tuple[Key, ...] = ()

    def get(self, value: Any) -> Any:
        """The item in this place."""
        for key in self.keys:
            value = _item(value, key)
        return value

    def put(self, value: Any, new: Any) -> Any:
        """A copy of `value` with `new` in this place; containers off the path are shared."""
        if not self.keys:
            return new
        first, rest = self.keys[0], Slot(self.keys[1:])
        return _with_item(value, first, rest.put(_item(value, first), new))

    def __str__(self) -> str:
        return "".join(f"[{key!r}]" for key in self.keys)


WHOLE = Slot()


def walk(value: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Every leaf with its keys, depth first; a value that holds nothing is the one leaf, at `()`."""
    found: list[tuple[tuple[Any, ...], Any]] = []
    _walk(value, (), found)
    return found


def leaves(value: Any) -> list[Any]:
    """The leaves alone, depth first."""
    return [value] if isinstance(value, Tensor) else [leaf for _, leaf in walk(value)]


def tensors(value: Any) -> list[tuple[Slot, Tensor]]:
    """The floating tensors down to `MAX_DEPTH` containers deep, under text and integer keys, in order."""
    return [
        (Slot(keys), leaf)
        for keys, leaf in walk(value)
        if isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and len(keys) <= MAX_DEPTH
        and all(isinstance(key, (int, str)) for key in keys)
    ]


def replace_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same containers around changed leaves."""
    if isinstance(value, tuple):
        items = [replace_leaves(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [replace_leaves(item, change) for item in value]
    if isinstance(value, dict):
        changed = {key: replace_leaves(item, change) for key, item in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    return change(value)


def _walk(value: Any, keys: tuple[Any, ...], found: list[tuple[tuple[Any, ...], Any]]) -> None:
    if isinstance(value, Tensor):
        found.append((keys, value))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            _walk(item, (*keys, index), found)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _walk(item, (*keys, key), found)
    else:
        found.append((keys, value))


def _item(value: Any, key: Key) -> Any:
    if isinstance(key, str) and not isinstance(value, Mapping):
        return getattr(value, key)
    return value[key]


def _with_item(value: Any, key: Key, new: Any) -> Any:
    if isinstance(value, tuple):
        items = [new if i == key else item for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    changed = copy.copy(value)
    if isinstance(key, str) and not isinstance(value, Mapping):
        setattr(changed, key, new)
    else:
        changed[key] = new
    return changed
