"""What readouts of a run have decoded, kept for the runs that take its columns over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# Ways of reading (site, lens, k, metrics) that are kept of a run, and bytes that one of them may take.
MOST_KEPT, MOST_BYTES = 3, 16 << 20
# Parts that the columns of a run may lie in: a generation adds one with each token. Beyond it all but the
# first become one.
MOST_PARTS = 8


@dataclass(eq=False)
class _Part:
    """Some columns of a grid, in memory that runs share: a cell that is known is never written again.

    Attributes:
        held: what the key names by its identity, the lens say: no other may get that.
        start: the first column.
        arrays: `[rows, columns, ...]` each.
        is_known: `[rows, columns]`, which of the cells are in them.
    """

    held: Any
    start: int
    arrays: dict[str, Array]
    is_known: Mask

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def within(self, is_taken: Mask) -> "_Part | None":
        """The same memory, with the cells that are taken, `[rows, columns of the grid]`; None if none is."""
        is_taken = is_taken[:, self.start : self.start + self.is_known.shape[1]]
        is_known = self.is_known[:, : is_taken.shape[1]] & is_taken
        return _Part(self.held, self.start, self.arrays, is_known) if is_known.any() else None

    def finds(self, rows: Array, positions: Array) -> Mask:
        """Which of some cells are in here."""
        columns = positions - self.start
        is_inside = (columns >= 0) & (columns < self.is_known.shape[1])
        return is_inside & self.is_known[rows, np.where(is_inside, columns, 0)]

    def store(self, rows: Array, positions: Array, arrays: Mapping[str, Array]) -> None:
        """Take cells in that are not known yet; those before `start` are known elsewhere."""
        columns = positions - self.start
        is_new = (columns >= 0) & ~self.finds(rows, positions)
        for name, array in arrays.items():
            self.arrays[name][rows[is_new], columns[is_new]] = array[is_new]
        self.is_known[rows[is_new], columns[is_new]] = True


def _empty(held: Any, start: int, n_rows: int, n_columns: int, like: Mapping[str, Array]) -> _Part:
    """A part of which no cell is known, with arrays as those of some cells, `[cells, ...]`."""
    arrays = {
        name: np.zeros((n_rows, n_columns, *array.shape[1:]), array.dtype) for name, array in like.items()
    }
    return _Part(held, start, arrays, np.zeros((n_rows, n_columns), bool))


def _joined(parts: Sequence[_Part]) -> _Part:
    """Several parts as one, in memory of its own."""
    start = min(part.start for part in parts)
    stop = max(part.start + part.is_known.shape[1] for part in parts)
    n_rows = len(parts[0].is_known)
    like = {name: array[0] for name, array in parts[0].arrays.items()}
    joined = _empty(parts[0].held, start, n_rows, stop - start, like)
    for part in parts:
        rows, columns = np.nonzero(part.is_known)
        cells = {name: array[rows, columns] for name, array in part.arrays.items()}
        joined.store(rows, columns + part.start, cells)
    return joined


class DecodedCells:
    """The cells of a run that were decoded, by how they were read.

    A run looks up only what it took over: what is its own is decoded whenever it is asked for.

    Args:
        seq: how many columns the run has.
        n_columns: so many of them it took over.
    """

    def __init__(self, seq: int, n_columns: int = 0) -> None:
        self._seq, self._n_columns = seq, n_columns
        self._taken: dict[Any, list[_Part]] = {}
        self._own: dict[Any, _Part] = {}
        # ways that later runs get, the oldest first
        self._ways: list[Any] = []

    def sizes(self) -> dict[int, int]:
        """Bytes of what is kept for later runs, by the identity of the memory, which runs share."""
        parts = [part for key in self._ways for part in self._parts(key)]
        return {id(part.arrays): part.nbytes for part in parts}

    def forget(self) -> None:
        """Keep nothing for later runs; what this run took over stays."""
        self._own.clear()
        self._ways.clear()

    def _parts(self, key: Any) -> list[_Part]:
        own = self._own.get(key)
        return [*self._taken.get(key, []), *([own] if own is not None else [])]

    def handed_on(self, seq: int, n_columns: int, is_same: Mask | None = None) -> "DecodedCells":
        """For a run of `seq` columns, whose first `n_columns` are this run's.

        Args:
            is_same: `[n_layers + 1, seq]`, further cells of `resid_post` that have this run's states.
        """
        found = DecodedCells(seq, n_columns)
        for key in self._ways:
            parts = self._parts(key)
            is_taken = np.zeros((len(parts[0].is_known), seq), bool) if parts else np.zeros((0, seq), bool)
            is_taken[:, :n_columns] = True
            # what is compared with the last row may have another last row there
            if is_same is not None and key[0] == "resid_post" and not {"kl", "agrees"} & key[4]:
                is_taken |= is_same
            taken = [cut for part in parts if (cut := part.within(is_taken)) is not None]
            if len(taken) > MOST_PARTS:
                taken = [taken[0], _joined(taken[1:])]
            if taken:
                found._taken[key] = taken
                found._ways.append(key)
        return found

    def known(self, key: Any, rows: Array, positions: Array) -> Mask | None:
        """Which of some cells were taken over, `[cells]`; None where none was.

        Args:
            rows: of the site's grid, from 0.
        """
        found = np.zeros(len(rows), bool)
        for part in self._taken.get(key, []):
            found |= part.finds(rows, positions)
        return found if found.any() else None

    def of(self, key: Any, rows: Array, positions: Array) -> dict[str, Array]:
        """The arrays of cells that are known, each `[cells, ...]`."""
        parts = self._taken[key]
        found = {
            name: np.zeros((len(rows), *array.shape[2:]), array.dtype)
            for name, array in parts[0].arrays.items()
        }
        for part in parts:
            at = np.flatnonzero(part.finds(rows, positions))
            for name, array in part.arrays.items():
                found[name][at] = array[rows[at], positions[at] - part.start]
        return found

    def store(
        self, key: Any, held: Any, rows: Array, positions: Array, n_rows: int, arrays: Mapping[str, Array]
    ) -> None:
        """Keep what was decoded.

        Args:
            held: what the key names by its identity, the lens say.
            n_rows: of the site's grid.
            arrays: `[cells, ...]` each.
        """
        own = self._own.get(key)
        if own is None:
            # what was taken over lies in memory of an earlier run
            start = self._n_columns if key in self._taken else 0
            n_cells = n_rows * self._seq
            n_bytes = sum(n_cells * array[:1].nbytes for array in arrays.values() if len(array))
            if n_bytes > MOST_BYTES or start == self._seq:
                return
            own = self._own[key] = _empty(held, start, n_rows, self._seq - start, arrays)
            if key not in self._ways:
                self._ways.append(key)
            while len(self._ways) > MOST_KEPT:
                self._own.pop(self._ways.pop(0), None)
        own.store(rows, positions, arrays)
