"""A readout of a run that took columns over: cells that were decoded for the earlier run are not again."""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np

from lenswidget.lenses.lens import LogitLens
from lenswidget.readout.cells import Cells
from lenswidget.readout.query import CheckedQuery
from lenswidget.readout.readout import PER_CELL, Readout

Slices = Generator[tuple[int, int], None, Readout]


def without_taken_over(checked: CheckedQuery, decode: Callable[[CheckedQuery], Slices]) -> Slices:
    """A query's readout, of which `decode` gives the cells that are not known from an earlier run.

    What is decoded is kept for later runs, if the run keeps anything for them.
    """
    run, cells = checked.run, checked.cells
    decoded = None if run.kept is None else run.kept.decoded
    # what came next is not of a cell's column alone
    if checked.against is not None or decoded is None or "surprise" in checked.metrics:
        return (yield from decode(checked))
    key = _key(checked)
    rows = cells.layers - run.lowest_layer(checked.site)
    is_known = decoded.known(key, rows, cells.positions)
    if is_known is None:
        readout = yield from decode(checked)
    else:
        at, rest = np.flatnonzero(is_known), np.flatnonzero(~is_known)
        left = Cells(cells.layers[rest], cells.positions[rest])
        slices = decode(replace(checked, cells=left, against_cells=left))
        readout = yield from _shifted(slices, len(at), len(cells))
        there = decoded.of(key, rows[at], cells.positions[at])
        readout = _merged(checked, readout, rest, there, at)
    n_rows = run.n_layers - run.lowest_layer(checked.site)
    if run.kept is not None and not run.kept.is_forgotten:
        decoded.store(
            key, (checked.lens, checked.background), rows, cells.positions, n_rows, _arrays(readout)
        )
    return readout


def _key(checked: CheckedQuery) -> Any:
    """How cells are read: two queries of one key give the same numbers of a cell."""
    lens: Any = checked.lens
    is_plain = type(lens) is LogitLens
    return (
        checked.site,
        "logit" if is_plain else id(lens),
        checked.k,
        tuple(checked.track.tolist()),
        checked.metrics,
        checked.logits,
        checked.show,
        id(checked.background),
    )


def _arrays(readout: Readout) -> dict[str, Any]:
    found = {name: getattr(readout, name) for name in PER_CELL if name not in ("layers", "positions")}
    return {name: array for name, array in found.items() if array is not None}


def _shifted(slices: Slices, n_known: int, n_cells: int) -> Slices:
    """The same slices, counted among all cells."""
    while True:
        try:
            done, _ = next(slices)
        except StopIteration as stop:
            return stop.value
        yield n_known + done, n_cells


def _merged(checked: CheckedQuery, readout: Readout, rest: Any, known: dict[str, Any], at: Any) -> Readout:
    """A readout of all cells of a query: those decoded now, and those that are known."""
    whole: dict[str, Any] = {}
    for name, array in _arrays(readout).items():
        whole[name] = np.empty((len(checked.cells), *array.shape[1:]), array.dtype)
        whole[name][rest] = array
        whole[name][at] = known[name]
    return replace(readout, layers=checked.cells.layers, positions=checked.cells.positions, **whole)
