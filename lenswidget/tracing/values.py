"""The values that modules take and return: a block's output, and whether an assigned value fits."""

import copy
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lenswidget.errors import ShapeError
from lenswidget.nested import leaves, replace_leaves


class BlockOutput(Tensor):
    """Wraps a decoder block's output so that it works as a tensor and as a tuple.

    As a tensor it is the hidden states `[batch, seq, d_model]`. `[0]`, with a plain integer, gives the same
    states, whether the block returns a tuple or a bare tensor; `[1]` and on are the tuple's other items.
    Everything computed from it is an ordinary tensor. To take one row of the batch, write `[0][row]`.
    """

    _parts: tuple[Any, ...]

    @staticmethod
    def of(states: Tensor, parts: tuple[Any, ...]) -> "BlockOutput":
        """An alias of the states that keeps all that the block returned."""
        output: BlockOutput = _alias(states, BlockOutput)
        output._parts = parts
        return output

    def __getitem__(self, index: Any) -> Any:
        position = _plain_index(index)
        if position is None:
            return plain(self)[index]
        if not -len(self._parts) <= position < len(self._parts):
            raise IndexError(
                f"Asked for part [{position}] of a decoder block's output, which has {len(self._parts)}: "
                f"[0] is the hidden states {list(self.shape)}. For a row of the batch write [0][{position}]."
            )
        return self._parts[position]

    def __setitem__(self, index: Any, value: Any) -> None:
        position = _plain_index(index)
        if position is None:
            plain(self)[index] = plain(value)
        elif self[position] is not value:  # `output[0] += 1` hands back the part that it changed in place
            self[position][...] = plain(value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return copy.deepcopy(plain(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return plain(self).__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
            return func(*args, **(kwargs or {}))


class SavableTuple(tuple[Any, ...]):
    """A tuple that a module takes or returns, with a `.save()` for code that was written for nnsight."""

    __slots__ = ()

    def save(self) -> "SavableTuple":
        """The tuple itself."""
        return self


def as_block_output(value: Any) -> Any:
    """A block's output wrapped in `BlockOutput`; a value without hidden states in front stays as it is."""
    states = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(states, Tensor):
        return value
    return BlockOutput.of(states, tuple(value) if isinstance(value, tuple) else (states,))


def plain(value: Any) -> Any:
    """The value with every `BlockOutput` in it replaced by the ordinary tensor of the hidden states."""
    if isinstance(value, BlockOutput):
        return _alias(value, Tensor)
    if type(value) is SavableTuple:
        value = tuple(value)
    if isinstance(value, (tuple, list, dict)) and any(
        isinstance(leaf, BlockOutput) for leaf in leaves(value)
    ):
        return replace_leaves(value, plain)
    return value


def _alias(tensor: Tensor, kind: type[Tensor]) -> Any:
    if torch.is_grad_enabled() or not tensor.requires_grad:
        return tensor.as_subclass(kind)
    # the body may run without gradients while the forward runs with them
    with torch.inference_mode(False), torch.enable_grad():
        return tensor.as_subclass(kind)


def with_hidden_states(found: Any, states: Any) -> Any:
    """A block's output `found`, with other hidden states in it."""
    return (states, *found[1:]) if isinstance(found, tuple) else states


def check_fit(value: Any, found: Any, name: str) -> None:
    """Refuse a value that does not fit where the forward has `found`.

    Args:
        name: of the value in the error message.
    Raises:
        ShapeError: another container, or a tensor of another shape, dtype or device.
    """
    if isinstance(found, Tensor) and isinstance(value, Tensor):
        asked, there = _describe(value), _describe(found)
        if asked != there:
            raise ShapeError(
                f"Assigned {asked} to {name}, which is {there}. Give it the same shape, dtype and device."
            )
        return
    if isinstance(found, (tuple, list)) and isinstance(value, (tuple, list)) and len(found) == len(value):
        for index, (item, there) in enumerate(zip(value, found, strict=True)):
            check_fit(item, there, f"{name}[{index}]")
        return
    if isinstance(found, dict) and isinstance(value, dict) and set(found) == set(value):
        for key, there in found.items():
            check_fit(value[key], there, f"{name}[{key!r}]")
        return
    containers = (Tensor, tuple, list, dict)
    if isinstance(found, containers) or isinstance(value, containers):
        raise ShapeError(
            f"Assigned {_describe(value)} to {name}, which is {_describe(found)}. Give it the same structure."
        )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} with keys {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _plain_index(index: Any) -> int | None:
    """The index where it is one plain integer."""
    if isinstance(index, (Tensor, slice, tuple, list, bool)) or index is None or index is Ellipsis:
        return None
    try:
        return operator.index(index)
    except TypeError:
        return None
