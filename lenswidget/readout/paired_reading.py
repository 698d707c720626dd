"""Cells of two aligned runs, read together where both have them, and of one run where the other has none."""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lenswidget.lenses.lens import LensLike
from lenswidget.readout.alignment import MISSING
from lenswidget.readout.cells import Cells
from lenswidget.readout.query import Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import Run

Array = npt.NDArray[Any]
PREFIX = "reference_"
# What a readout says of each cell and nothing else.
_SIDED = ("ids", "log_probs", "tracked_log_probs", "tracked_ranks")
# What reads a query: `lenswidget.readout.reading.read_slices`, or an engine's.
ReadSlices: TypeAlias = Callable[[Query], Generator[tuple[int, int], None, Readout]]


@dataclass(frozen=True, eq=False)
class PairedCells:
    """The cells `[n]` of two runs that stand side by side, and how both are read.

    Attributes:
        a, b: the runs; `b` is read, with `a` as its reference.
        layers, positions: `[n, 2]` int64, of either; a position of -1 where a run lacks the column.
        tracked: token ids in either vocabulary.
        share_ids: whether an id is the same token in both, without which there are no divergences.
    """

    a: Run
    b: Run
    layers: Array
    positions: Array
    tracked: tuple[Sequence[int], Sequence[int]]
    share_ids: bool
    lens: LensLike = None
    site: str = "resid_post"
    k: int = 5
    metrics: Collection[str] = ()

    def slices(self, read: ReadSlices) -> Generator[tuple[int, int], None, dict[str, Array]]:
        """All cells, in slices; returns arrays `[n, ...]` by their names in a readout of `b` against `a`.

        Where a run lacks the cell, floats are NaN, ids and ranks -1.
        """
        has = self.positions != MISSING
        both = has.all(1) if self.share_ids else np.zeros(len(has), bool)
        # by the run that is read; a part of both always, so that every array is there
        parts = [(1, both), (1, has[:, 1] & ~both), (0, has[:, 0] & ~both)]
        total = sum(int(places.sum()) for _, places in parts)
        found: dict[str, Array] = {}
        done = 0
        for side, places in parts:
            is_pair = places is both and self.share_ids
            if places is both and not is_pair:
                continue
            for n, _ in (work := _Counted(read(self._query(side, places, is_pair=is_pair)))):
                yield done + n, total
            readout = work.value
            done += int(places.sum())
            if side == 1:
                scatter(found, readout, places)
            else:
                scatter(found, readout, places, prefix=PREFIX, names=_SIDED)
            if done < total:
                yield done, total
        return found

    def _query(self, side: int, places: Array, *, is_pair: bool) -> Query:
        run = (self.a, self.b)[side]
        cells = [Cells(self.layers[places, i], np.maximum(self.positions[places, i], 0)) for i in (0, 1)]
        metrics = tuple(self.metrics) if side == 1 else ()
        query = Query(
            run,
            cells[side],
            lens=self.lens,
            site=self.site,
            k=min(self.k, run.d_vocab),
            track=tuple(self.tracked[side]),
            metrics=metrics,
        )
        if not is_pair:
            return query
        return replace(query, against=self.a, against_cells=cells[0], metrics=(*metrics, "js"))


def scatter(
    found: dict[str, Array],
    readout: Readout,
    places: Array,
    *,
    prefix: str = "",
    names: Collection[str] | None = None,
) -> None:
    """Put a readout's arrays where its cells stand among all; elsewhere NaN, -1 or False unless put before.

    Args:
        found: by name, `[n, ...]` each.
        places: `[n]` bool, which cells were read.
        names: of the arrays; all that have a value per cell unless given.
    """
    for name, values in vars(readout).items():
        is_of_cells = isinstance(values, np.ndarray) and name not in ("layers", "positions", "tracked_ids")
        if not is_of_cells or (names is not None and name not in names):
            continue
        key = prefix + name
        if key not in found:
            kinds: dict[str, Any] = {"f": (np.float64, np.nan), "b": (np.bool_, False)}
            dtype, nothing = kinds.get(values.dtype.kind, (np.int64, MISSING))
            found[key] = np.full((len(places), *values.shape[1:]), nothing, dtype)
        found[key][places] = values


class _Counted:
    """The steps of a generator to loop over; its value once it has ended."""

    def __init__(self, work: Generator[tuple[int, int], None, Readout]) -> None:
        self._work = work
        self.value: Readout

    def __iter__(self) -> Generator[tuple[int, int], None, None]:
        self.value = yield from self._work
