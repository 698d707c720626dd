"""The heads of one layer inside a trace: what each gives before the output projection."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lenswidget.anatomy.units import Units
from lenswidget.checks import is_integer
from lenswidget.errors import CellError


class LayerHeads:
    """`len(heads)`, and `heads[h]`: what head `h` gives, `[batch, seq, d_head]`, to be read and assigned.

    Reading gives a view of the model's own tensor. The output projection has not been applied: a head that is
    set to 0 adds nothing to the stream. The projection's bias belongs to no head.
    """

    __slots__ = ("_layer", "_read", "_units", "_write")

    def __init__(
        self, layer: int, units: Units, read: Callable[[], Tensor], write: Callable[[Tensor], Any]
    ) -> None:
        self._layer, self._units, self._read, self._write = layer, units, read, write

    def __len__(self) -> int:
        return self._units.n

    def __getitem__(self, head: int) -> Tensor:
        """What one head gives, `[batch, seq, d_head]`.

        Raises:
            CellError: there is no such head.
        """
        return self._read()[..., self._slice(head)]

    def __setitem__(self, head: int, states: Tensor) -> None:
        at = self._slice(head)
        whole = self._read().clone()
        whole[..., at] = states
        self._write(whole)

    def _slice(self, head: int) -> slice:
        n = self._units.n
        if not is_integer(head) or not 0 <= head < n:
            raise CellError(f"Asked for head {head!r} of {n} in layer {self._layer}. Use 0 to {n - 1}.")
        return self._units.slice(int(head))

    def __repr__(self) -> str:
        return f"<{self._units.n} heads of layer {self._layer}, {self._units.d} wide>"
