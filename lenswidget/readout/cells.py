"""Which cells a readout is asked for: layer and position pairs, as two flat arrays."""

from typing import Any, Protocol

import numpy as np

from lenswidget.checks import Ints, integers
from lenswidget.errors import CellError


class HasGrid(Protocol):
    """What has rows and columns of cells: a `Run`."""

    @property
    def n_layers(self) -> int: ...
    @property
    def seq(self) -> int: ...


class Cells:
    """Cells of a run, in the order in which their numbers are wanted; a cell may appear twice.

    Args:
        layers: `[n]` integers, or one; -1 is the embedding row, `i` the stream after block `i`.
        positions: `[n]` integers, or one; token index from 0.
    Attributes:
        layers, positions: `[n]`, int64.
    Raises:
        CellError: the two differ in length or hold anything but integers.
    """

    __slots__ = ("layers", "positions")

    layers: Ints
    positions: Ints

    def __init__(self, layers: Any, positions: Any) -> None:
        self.layers, self.positions = integers("layers", layers), integers("positions", positions)
        if len(self.layers) != len(self.positions):
            raise CellError(
                f"Asked for cells with {len(self.layers)} layers and {len(self.positions)} positions. Pass "
                "one of each per cell, or Cells.grid(layers, positions) for all pairs."
            )

    @classmethod
    def all(cls, run: HasGrid) -> "Cells":
        """Every cell of a run's residual stream: layers -1 to `n_layers - 1` at every position."""
        return cls.grid(range(-1, run.n_layers), range(run.seq))

    @classmethod
    def grid(cls, layers: Any, positions: Any) -> "Cells":
        """All pairs, layer by layer, `[len(layers) * len(positions)]` cells, of integers or one of each."""
        rows, columns = integers("layers", layers), integers("positions", positions)
        return cls(np.repeat(rows, len(columns)), np.tile(columns, len(rows)))

    @classmethod
    def of(cls, asked: Any) -> "Cells":
        """`Cells` as they are, or a sequence of `(layer, position)` pairs.

        Raises:
            CellError: it is neither.
        """
        if isinstance(asked, Cells):
            return asked
        try:
            pairs = [(layer, position) for layer, position in asked]
        except (TypeError, ValueError):
            raise CellError(
                f"Asked for cells {asked!r:.80}. Pass Cells.grid(layers, positions), or a list of pairs "
                "[(layer, position), ...]."
            ) from None
        return cls([layer for layer, _ in pairs], [position for _, position in pairs])

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        if not len(self):
            return "Cells(none)"
        return (
            f"Cells({len(self)}: layers {self.layers.min()} to {self.layers.max()}, "
            f"positions {self.positions.min()} to {self.positions.max()})"
        )

    def check(self, n_layers: int, seq: int, lowest: int = -1) -> None:
        """Refuses cells outside a run.

        Raises:
            CellError: a layer outside `lowest .. n_layers - 1`, or a position outside `0 .. seq - 1`.
        """
        _check_range("layer", self.layers, lowest, n_layers - 1, " (-1 is the embedding)" * (lowest < 0))
        _check_range("position", self.positions, 0, seq - 1, "")


def _check_range(name: str, values: Ints, low: int, high: int, note: str) -> None:
    outside = values[(values < low) | (values > high)]
    if len(outside):
        raise CellError(
            f"Asked for {name} {outside[0]}, but this run has {name}s {low} to {high}{note}: choose one of "
            "those."
        )
