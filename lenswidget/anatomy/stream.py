"""Where the residual stream sits in what a block takes and gives."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lenswidget.nested import Slot


@dataclass(frozen=True)
class Layout:
    """How a tensor holds `[batch, seq, d_model]`.

    `axes` are its batch and sequence axes, then all others; `rest` the sizes of those others. Usually
    `(0, 1, 2)` and `(d_model,)`; a model that carries several streams has more, and `d_model` is then
    their product. Where the streams lie one behind the other along an axis, `fold` is that axis and their
    number, and `axes` and `rest` are of the tensor with that axis cut into (stream, position).
    """

    axes: tuple[int, ...]
    rest: tuple[int, ...]
    fold: tuple[int, int] | None = None

    @property
    def d_model(self) -> int:
        return int(torch.Size(self.rest).numel())

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is `[batch, seq, d_model]` as it stands."""
        return self.axes == (0, 1, 2)

    def read(self, tensor: Tensor) -> Tensor:
        """`[batch, seq, d_model]`; the tensor itself where it is laid out so."""
        if self.is_plain:
            return tensor
        if self.fold is not None:
            tensor = tensor.unflatten(self.fold[0], (self.fold[1], -1))
        return tensor.permute(self.axes).flatten(2)

    def write(self, states: Tensor) -> Tensor:
        """The inverse of `read`."""
        if self.is_plain:
            return states
        inverse = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        tensor = states.unflatten(2, self.rest).permute(inverse)
        return tensor if self.fold is None else tensor.flatten(self.fold[0], self.fold[0] + 1)


def layouts(shape: torch.Size, batch: int, seq: int) -> list[Layout]:
    """The ways in which a tensor of this shape can hold a value per batch row and position."""
    found = _unfolded(tuple(shape), batch, seq)
    if found:
        return found
    for axis, size in enumerate(shape[:-1]):
        if size > seq and size % seq == 0 and batch in shape[:axis]:
            cut = (*shape[:axis], size // seq, seq, *shape[axis + 1 :])
            fold = (axis, size // seq)
            found += [replace(layout, fold=fold) for layout in _unfolded(cut, batch, seq)]
    return found


def _unfolded(shape: tuple[int, ...], batch: int, seq: int) -> list[Layout]:
    found: list[Layout] = []
    n = len(shape)
    for i in range(n - 1):
        for j in range(n - 1):
            if i != j and shape[i] == batch and shape[j] == seq:
                others = tuple(axis for axis in range(n) if axis not in (i, j))
                found.append(Layout((i, j, *others), tuple(shape[axis] for axis in others)))
    return sorted(found, key=lambda layout: (layout.axes != tuple(range(n)), layout.axes))


@dataclass(frozen=True)
class Stream:
    """Where one block has the residual stream: in `(args, kwargs)`, and in its output."""

    source: Slot
    target: Slot
    layout: Layout

    def entering(self, args: Any, kwargs: Any) -> Tensor:
        """The stream that enters the block, `[batch, seq, d_model]`."""
        return self.layout.read(self.source.get((args, kwargs)))

    def leaving(self, output: Any) -> Tensor:
        """The stream that leaves the block, `[batch, seq, d_model]`."""
        return self.layout.read(self.target.get(output))

    def with_leaving(self, output: Any, states: Tensor) -> Any:
        """A copy of the block's output that carries `states` instead."""
        return self.target.put(output, self.layout.write(states))

    def with_entering(self, args: Any, kwargs: Any, states: Tensor) -> tuple[Any, Any]:
        """A copy of the block's `(args, kwargs)` that carries `states` instead."""
        return self.source.put((args, kwargs), self.layout.write(states))
