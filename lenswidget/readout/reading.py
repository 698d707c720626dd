"""Cells to small arrays: what each says through the tail, exactly, in bounded memory."""

import contextlib
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenswidget.errors import Cancelled, FidelityWarning, LensError
from lenswidget.lenses.lens import LensLike
from lenswidget.models.product import full_float32
from lenswidget.models.split import is_spread
from lenswidget.progress import Progress, drain, reporting
from lenswidget.readout.background import Background
from lenswidget.readout.elsewhere import slices_at_the_run
from lenswidget.readout.metrics import Tile, measure
from lenswidget.readout.query import CellsLike, CheckedQuery, Query
from lenswidget.readout.readout import Readout
from lenswidget.readout.remembered import without_taken_over
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.tiles import TILE_BYTES, TileDecoder, is_out_of_memory


def read(
    run: Run,
    cells: CellsLike | None = None,
    *,
    lens: LensLike = None,
    site: str = EMBED_SITE,
    k: int = 5,
    track: Iterable[int] = (),
    against: Run | None = None,
    metrics: Collection[str] = ("entropy",),
    logits: bool = False,
    against_cells: CellsLike | None = None,
    show: str = "top",
    background: Background | None = None,
    tile_bytes: int = TILE_BYTES,
    slice_s: float = 0.25,
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> Readout:
    """What some cells of a run say: the k most probable tokens of each, and what else is asked.

    Args:
        run: a `Run`.
        cells: a `Cells`, or a list of `(layer, position)` pairs; None is the whole grid, as far as the lens
            carries it.
        lens: how a state is carried to the tail; None is the logit lens.
        site: what is read: `resid_post`, or another of `run.sites`.
        k: how many top tokens, 1 to `d_vocab`; ties by the lower id. Ids beyond the tokenizer's count in the
            softmax and are not listed.
        track: ids whose log-prob and exact rank are wanted in every cell.
        against: another run that has these cells, to compare them one by one; gives `kl_from_reference`
            and `kl_to_reference`.
        metrics: any of `entropy` (nats), `kl` (both ways to the last layer of the same position), `agrees`
            (whether the top token is the last layer's), `surprise` (nats: less the log-prob of the token that
            came next) and, with `against`, `js` (Jensen-Shannon, nats).
        logits: whether the logits of the top tokens are wanted.
        against_cells: for each cell the one of `against` that it is compared with; the same unless given.
        show: which token stands for a cell in `shown_ids`: "words" for the top one that is a word, "lift"
            for the one of the 16 best words that is most above its usual at this layer. "top" adds nothing.
            All other arrays are the same whatever is shown.
        background: what is usual, of `lw.fit_background(model, lens)`; for "lift".
        tile_bytes: memory for the logits in work at a time; halved when the device runs out.
        slice_s: seconds between two looks at `progress` and `cancelled`, as nearly as the tiles allow.
        progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
        cancelled: asked between slices; once it says True, `Cancelled` is raised.
    Returns:
        A `Readout`, small arrays over the cells in their given order.
    Raises:
        CellError: a cell, k or token id outside the run.
        LensError: a metric or lens that is not known, or a lens of another model.
        Cancelled: `cancelled` said so.
    Warns:
        FidelityWarning: the run's last row is not the model's own logits.
    """
    query = Query(run, cells, lens, site, k, track, against, metrics, logits, against_cells, show, background)
    return read_query(
        query, tile_bytes=tile_bytes, slice_s=slice_s, progress=progress, cancelled=cancelled, stacklevel=3
    )


def read_query(
    query: Query,
    *,
    tile_bytes: int = TILE_BYTES,
    slice_s: float = 0.25,
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
    stacklevel: int = 2,
) -> Readout:
    """`read`, for a query; `stacklevel` is where its warning points."""
    for run in (query.run, query.against):
        if isinstance(run, Run):
            run.check_model(values=True)
    slices = read_slices(query, tile_bytes=tile_bytes, slice_s=slice_s)
    if not (cancelled is None or callable(cancelled)):
        raise LensError(
            f"Asked to read with cancelled={cancelled!r}; pass a function that says True to stop."
        )
    with contextlib.closing(slices), reporting(progress, "readout", "cell") as report:

        def between(done: int, total: int) -> None:
            report(done, total)
            if cancelled is not None and cancelled():
                raise Cancelled(f"The readout was stopped after {done} of {total} cells.")

        readout: Readout = drain(slices, between)
        report(len(readout), len(readout))
    fidelity = query.run.fidelity
    if not fidelity.ok:
        complaint = fidelity.complaint(query.run.model.name)
        warnings.warn(f"{complaint} Do not trust these numbers.", FidelityWarning, stacklevel=stacklevel)
    return readout


@slices_at_the_run
def read_slices(
    query: Query, *, tile_bytes: int = TILE_BYTES, slice_s: float = 0.1
) -> Generator[tuple[int, int], None, Readout]:
    """`read`, in slices: yields `(cells done, cells in all)` every `slice_s` seconds or so.

    The query is checked at the first step. The model's lock is held within a slice and free between two; a
    generator that is closed or dropped leaves nothing behind.
    """
    checked = query.checked()
    limits: dict[str, Any] = {"tile_bytes": tile_bytes, "slice_s": slice_s}
    for name, value in limits.items():
        if not isinstance(value, (int, float)) or not value >= 0:
            raise LensError(f"Asked to read with {name}={value!r}; pass a number, 0 or more.")
    return (yield from without_taken_over(checked, partial(_slices, **limits)))


def _slices(
    checked: CheckedQuery, *, tile_bytes: int, slice_s: float
) -> Generator[tuple[int, int], None, Readout]:
    """All cells of a query decoded, in slices."""
    run = checked.run
    out = _Arrays(checked)
    decoder: TileDecoder | None = None
    done, total = 0, len(checked.cells)
    is_shared = is_spread()
    yielded = time.monotonic()
    try:
        while done < total:
            with run.held():
                decoder = decoder or TileDecoder(checked, tile_bytes)
                started = time.monotonic()
                with full_float32(decoder.device):
                    taken = _decode_some(decoder, out, done, checked)
            done += taken
            if not is_shared:
                decoder.pace(time.monotonic() - started, slice_s)
            # after each tile where other processes must stop at the same one
            if done < total and (is_shared or time.monotonic() - yielded >= slice_s):
                yield done, total
                yielded = time.monotonic()
    finally:
        if decoder is not None:
            decoder.forget()
    return out.readout()


def logits(query: CheckedQuery) -> Tensor:
    """All logits of a few cells, `[cells, d_vocab]` float32, on the model's device: a row each in memory."""
    run = query.run
    with run.held():
        decoder = TileDecoder(query, TILE_BYTES)
        with full_float32(decoder.device):
            return decoder.logits(run, query.cells, query.lens, query.site)


def _decode_some(decoder: TileDecoder, out: "_Arrays", done: int, asked: CheckedQuery) -> int:
    """One tile's cells, measured and stored; how many there were. Halves the tile while memory is short."""
    while True:
        try:
            order, tile = decoder.tile(done)
            found = measure(
                tile, asked.k, asked.track, asked.metrics, logits=asked.logits, chooser=asked.chooser
            )
            out.store(order, found)
            return len(order)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or is_spread() or not decoder.halve():
                raise


class _Arrays:
    """The numbers of all cells, filled tile by tile."""

    def __init__(self, asked: CheckedQuery):
        self._asked = asked
        self._arrays: dict[str, Any] = {}

    def store(self, order: Any, found: dict[str, Tensor]) -> None:
        n = len(self._asked.cells)
        for name, values in found.items():
            part = values.cpu().numpy()
            part = part.astype(np.int32) if part.dtype == np.int64 else part
            if name not in self._arrays:
                self._arrays[name] = np.empty((n, *part.shape[1:]), part.dtype)
            self._arrays[name][order] = part

    def readout(self) -> Readout:
        asked = self._asked
        if not self._arrays:  # no cells: one that is thrown away tells the shapes
            row = torch.zeros(1, asked.run.d_vocab, device="cpu")
            itself = None if asked.against is None else slice(0, 1)
            tile = Tile(row, 1, segments=[(0, 1, 0)], references=itself)
            first = torch.zeros(1, dtype=torch.long, device="cpu")
            nothing = measure(
                replace(tile, layers=first, targets=first if "surprise" in asked.metrics else None),
                asked.k,
                asked.track,
                asked.metrics,
                logits=asked.logits,
                chooser=None if asked.chooser is None else asked.chooser.to("cpu"),
            )
            self.store([], {name: values[:0] for name, values in nothing.items()})
        return Readout(
            run_id=asked.run.id,
            site=asked.site,
            lens=asked.lens.name,
            layers=asked.cells.layers,
            positions=asked.cells.positions,
            tracked_ids=asked.track.numpy().astype(np.int32),
            tokenizer=asked.run.tokenizer,
            **self._arrays,
        )
