"""Passes through blocks that run in a loop: which layers are of one pass, and what each layer is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lenswidget.anatomy.anatomy import Row


@dataclass(frozen=True)
class Pass:
    """Layers that follow each other and are of one pass through the same blocks.

    Attributes:
        start, stop: the layers, half open.
        call: how many passes of these blocks came before it in the forward.
    """

    start: int
    stop: int
    call: int

    @property
    def label(self) -> str:
        return f"pass {self.call}"


def passes_of(rows: Sequence[Row]) -> tuple[Pass, ...]:
    """The passes of a grid's rows, lowest first; none where no block runs more than once.

    Rows that follow each other are of one pass where their blocks have run equally often before, run equally
    often in all, and none of them comes twice. Blocks that run once, before or after a loop, are of no pass.
    """
    n_calls: dict[int, int] = {}
    for row in rows:
        n_calls[row.block] = n_calls.get(row.block, 0) + 1
    passes: list[Pass] = []
    for (call, n), group in groupby(enumerate(rows), key=lambda item: (item[1].call, n_calls[item[1].block])):
        layers = [layer for layer, _ in group]
        if n > 1:
            passes.append(Pass(layers[0], layers[-1] + 1, call))
    return tuple(passes)


def row_name(row: Row) -> str:
    """A row in short, pass and block: "2.3". Both count from 0, as `layers[i].calls[2]` does."""
    return f"{row.call}.{row.block}"


def layer_name(layer: int, rows: Sequence[Row]) -> str:
    """A layer as the page heads its row: "embed", "7", or pass and block where blocks run in a loop."""
    if layer < 0:
        return "embed"
    return row_name(rows[layer]) if rows else str(layer)


def row_phrase(row: Row) -> str:
    """A row in words: "pass 2, block 3"."""
    return f"pass {row.call}, block {row.block}"
