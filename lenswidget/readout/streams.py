"""Streams that several runs share: the columns that one took over from another lie in memory once."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# More parts than these are put together, so that reading a cell does not go through hundreds.
MOST_PARTS = 16


class Streams:
    """A site's states `[rows, seq, d_model]`, in parts that follow each other along the columns.

    Args:
        parts: each `[rows, columns, d_model]`, of one dtype.
    """

    __slots__ = ("parts", "shape", "starts")

    def __init__(self, parts: Sequence[Tensor]) -> None:
        kept = [part for part in parts if part.shape[1]]
        while len(kept) > MOST_PARTS:
            sizes = [a.shape[1] + b.shape[1] for a, b in pairwise(kept)]
            at = sizes.index(min(sizes))
            kept[at : at + 2] = [torch.cat([kept[at], kept[at + 1].to(kept[at].device)], dim=1)]
        self.parts = tuple(kept)
        self.starts: list[int] = []
        n = 0
        for part in self.parts:
            self.starts.append(n)
            n += part.shape[1]
        self.shape = (self.parts[0].shape[0], n, self.parts[0].shape[2])

    @property
    def device(self) -> torch.device:
        """Where the first part lies."""
        return self.parts[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, shared ones included."""
        return sum(part.nbytes for part in self.parts)

    def take(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The states of some cells, `[cells, d_model]`; rows and positions `[cells]` int64, on the CPU."""
        found: Tensor | None = None
        for part, start in zip(self.parts, self.starts, strict=True):
            is_here = (positions >= start) & (positions < start + part.shape[1])
            if not bool(is_here.any()):
                continue
            mine = part[rows[is_here].to(part.device), (positions[is_here] - start).to(part.device)]
            if len(mine) == len(rows):
                return mine
            found = mine.new_empty(len(rows), part.shape[2]) if found is None else found
            found[is_here.to(found.device)] = mine.to(found.device)
        return self.parts[0].new_empty(0, self.shape[2]) if found is None else found

    def first(self, n: int) -> list[Tensor]:
        """The parts of the first `n` columns: views, or copies where a view would hold on to much more."""
        found: list[Tensor] = []
        for part, start in zip(self.parts, self.starts, strict=True):
            taken = min(part.shape[1], n - start)
            if taken > 0:
                view = part[:, :taken]
                found.append(view.clone() if 2 * taken < part.shape[1] else view)
        return found


def as_streams(stream: Tensor | Streams) -> Streams:
    """Streams of one part, or as they are."""
    return stream if isinstance(stream, Streams) else Streams((stream,))
