"""What readouts of a run have decoded, kept for the runs that take its columns over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

# Ways of reading (site, lens, k, metrics) that are kept of a run, and bytes that one of them may take.
MOST_KEPT, MOST_BYTES = 3, 16 << 20


@dataclass(eq=False)
class _Kept:
    """Arrays over all cells of the grid, `[rows, seq, ...]`, and which of the cells are in them."""

    held: Any  # what the key names by its identity: no other may get that
    arrays: dict[str, Array]
    is_known: Mask

    def handed_on(self, seq: int, is_taken: Mask) -> "_Kept":
        """Of a grid that is `seq` columns wide, the cells that are taken, `[rows, columns]`."""
        n = min(is_taken.shape[1], self.is_known.shape[1])
        arrays: dict[str, Array] = {}
        for name, array in self.arrays.items():
            arrays[name] = np.zeros((array.shape[0], seq, *array.shape[2:]), array.dtype)
            arrays[name][:, :n] = array[:, :n]
        is_known = np.zeros((self.is_known.shape[0], seq), bool)
        is_known[:, :n] = self.is_known[:, :n] & is_taken[:, :n]
        return _Kept(self.held, arrays, is_known)


class DecodedCells:
    """The cells of a run that were decoded, by how they were read.

    A run looks up only what it took over: what is its own is decoded whenever it is asked for.

    Args:
        seq: how many columns the run has.
    """

    def __init__(self, seq: int) -> None:
        self._seq = seq
        self._kept: dict[Any, _Kept] = {}
        self._taken: dict[Any, _Kept] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept for later runs."""
        return sum(array.nbytes for kept in self._kept.values() for array in kept.arrays.values())

    def forget(self) -> None:
        """Keep nothing for later runs; what this run took over stays."""
        self._kept.clear()

    def handed_on(self, seq: int, n_columns: int, is_same: Mask | None = None) -> "DecodedCells":
        """For a run of `seq` columns, whose first `n_columns` are this run's.

        Args:
            is_same: `[n_layers + 1, seq]`, further cells of `resid_post` that have this run's states.
        """
        found = DecodedCells(seq)
        for key, kept in self._kept.items():
            n_rows = kept.is_known.shape[0]
            is_taken = np.zeros((n_rows, seq), bool)
            is_taken[:, :n_columns] = True
            # what is compared with the last row may have another last row there
            if is_same is not None and key[0] == "resid_post" and not {"kl", "agrees"} & key[4]:
                is_taken |= is_same
            found._taken[key] = kept.handed_on(seq, is_taken)
            found._kept[key] = found._taken[key].handed_on(seq, is_taken)
        return found

    def known(self, key: Any, rows: Array, positions: Array) -> Mask | None:
        """Which of some cells were taken over, `[cells]`; None where none was.

        Args:
            rows: of the site's grid, from 0.
        """
        kept = self._taken.get(key)
        if kept is None:
            return None
        found: Mask = kept.is_known[rows, positions]
        return found if found.any() else None

    def of(self, key: Any, rows: Array, positions: Array) -> dict[str, Array]:
        """The arrays of cells that are known, each `[cells, ...]`."""
        return {name: array[rows, positions] for name, array in self._taken[key].arrays.items()}

    def store(
        self, key: Any, held: Any, rows: Array, positions: Array, n_rows: int, arrays: Mapping[str, Array]
    ) -> None:
        """Keep what was decoded.

        Args:
            held: what the key names by its identity, the lens say.
            n_rows: of the site's grid.
            arrays: `[cells, ...]` each.
        """
        kept = self._kept.get(key)
        if kept is None:
            n_cells = n_rows * self._seq
            n_bytes = sum(n_cells * array[:1].nbytes for array in arrays.values() if len(array))
            if n_bytes > MOST_BYTES:
                return
            empty = {
                name: np.zeros((n_rows, self._seq, *array.shape[1:]), array.dtype)
                for name, array in arrays.items()
            }
            kept = self._kept[key] = _Kept(held, empty, np.zeros((n_rows, self._seq), bool))
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        for name, array in arrays.items():
            kept.arrays[name][rows, positions] = array
        kept.is_known[rows, positions] = True
