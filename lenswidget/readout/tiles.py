"""Tiles of cells: which go together, and their states carried to logits."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from lenswidget.checks import Ints
from lenswidget.lenses.lens import Lens, LogitLens, carry
from lenswidget.models.split import is_spread
from lenswidget.readout.cells import Cells
from lenswidget.readout.metrics import Exact, Tile
from lenswidget.readout.query import CheckedQuery
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.readout.top_k import top_k
from lenswidget.readout.unembed import Unembed, free_bytes

TILE_BYTES = 256 << 20
# On the CPU a larger tile makes the product no faster, leaves the caches, and from 32 MiB on its memory goes
# back to the system after each tile and is cleared anew for the next.
CPU_TILE_BYTES = 30 << 20
# Fewer rows than these only read the unembed's weight more often.
SLOW_ROWS = 8
# How many logits of a row that is wanted whole are computed again in float64.
N_BEST = 32
# Where nothing needs carrying.
AS_IS = LogitLens()


class TileDecoder:
    """Cuts what is asked into tiles of bounded size and decodes them one by one.

    Args:
        asked: the cells and what to hold them against.
        tile_bytes: for a tile's logits and, where rows are compared, their probabilities.
    """

    def __init__(self, asked: CheckedQuery, tile_bytes: int):
        self._asked = asked
        self._unembeds = {id(run.tail): run.unembed for run in (asked.run, asked.against) if run is not None}
        self._has_finals = bool(asked.metrics & {"kl", "agrees"})
        is_paired = asked.against is not None or "kl" in asked.metrics
        # cells of one position side by side share its last row
        by_position = np.argsort(asked.cells.positions, kind="stable")
        self._order: Ints = by_position if self._has_finals else np.arange(len(asked.cells))
        self.device = self._unembeds[id(asked.run.tail)].device
        if self.device.type == "cpu":
            tile_bytes = min(tile_bytes, CPU_TILE_BYTES)
        elif self.device.type == "cuda" and not is_spread():
            tile_bytes = min(tile_bytes, free_bytes(self.device) // 4)
        bytes_per_row = 4 * asked.run.d_vocab * (2 if is_paired else 1)
        self._rows = max(1, tile_bytes // bytes_per_row)
        self._most_rows = self._tried = self._rows
        self._cells_tried = 0

    def tile(self, done: int) -> tuple[Ints, Tile]:
        """The next tile after `done` cells, and which of the cells asked for its first rows are."""
        asked = self._asked
        n = self._cells_tried = self._fitting(done)
        order = self._order[done : done + n]
        cells = Cells(asked.cells.layers[order], asked.cells.positions[order])
        parts = [self._prepare(asked.run, cells, asked.lens, asked.site)]
        segments: list[tuple[int, int, int]] = []
        if self._has_finals:
            segments, missing = self._segments(cells)
            if len(missing):
                parts.append(self._prepare(asked.run, self._last(missing), AS_IS, EMBED_SITE))
        n_rows = self._tried = sum(len(part) for part in parts)
        references = is_same = None
        if asked.against is not None:
            theirs = Cells(asked.against_cells.layers[order], asked.against_cells.positions[order])
            is_same = self._is_same(cells, theirs)
            parts.append(self._prepare(asked.against, theirs, asked.lens, asked.site))
            references = slice(n_rows, n_rows + n)
            self._tried += n
        logits, exact = self._project(parts)
        if asked.site == EMBED_SITE and isinstance(asked.lens, LogitLens):
            asked.run.check_decoded(cells, logits)
        n_tokens = asked.run.n_tokens_shown(asked.k)
        layers = torch.from_numpy(cells.layers).to(logits.device) if asked.chooser is not None else None
        targets = asked.targets(cells.positions) if "surprise" in asked.metrics else None
        targets = None if targets is None else targets.to(logits.device)
        return order, Tile(logits, n, segments, references, is_same, exact, n_tokens, layers, targets)

    def logits(self, run: Run, cells: Cells, lens: Lens, site: str) -> Tensor:
        """`[cells, d_vocab]` float32, all at once; the best of each row to the last bit."""
        unembed = self._unembeds[id(run.tail)]
        prepared = self._prepare(run, cells, lens, site)
        found = unembed(prepared)
        if unembed.is_exact and found.device.type != "mps":
            best = top_k(found, min(N_BEST, found.shape[1]))
            found.scatter_(1, best, unembed.exact(prepared, best).float())
        return found

    def pace(self, elapsed_s: float, slice_s: float) -> None:
        """Makes tiles smaller where one takes much longer than a slice should, and larger again after."""
        if elapsed_s > 2 * slice_s:
            self._rows = min(self._rows, max(SLOW_ROWS, int(self._tried * slice_s / elapsed_s)))
        elif elapsed_s < slice_s / 2:
            self._rows = min(self._most_rows, 2 * self._rows)

    def forget(self) -> None:
        """Gives a tile's memory back: the runs keep their unembeds."""
        for unembed in self._unembeds.values():
            unembed.forget()

    def halve(self) -> bool:
        """Makes tiles half as large from now on; False where they cannot be smaller."""
        self.forget()
        self._most_rows = self._rows = max(1, self._tried // 2)
        return self._cells_tried > 1

    def _fitting(self, done: int) -> int:
        """How many of the next cells fit, with what they are held against."""
        per_cell = 1 if self._asked.against is None else 2
        left = len(self._order) - done
        n_tiles = -(-left // max(1, self._rows // per_cell))
        n = -(-left // n_tiles)  # tiles of like size: a small one would read the weight for a few rows
        while self._has_finals and n > 1:
            cells = self._order[done : done + n]
            _, missing = self._segments(
                Cells(self._asked.cells.layers[cells], self._asked.cells.positions[cells])
            )
            if n * per_cell + len(missing) <= self._rows:
                break
            n -= max(1, (n * per_cell + len(missing) - self._rows) // (per_cell + 1))
        return n

    def _segments(self, cells: Cells) -> tuple[list[tuple[int, int, int]], Ints]:
        """Runs of one position as `(start, stop, row of its last layer)`; the positions whose row is new."""
        starts = np.flatnonzero(np.diff(cells.positions, prepend=-1))
        stops = np.append(starts[1:], len(cells))
        is_own = self._asked.site == EMBED_SITE and isinstance(self._asked.lens, LogitLens)
        last = cells.layers == self._asked.run.n_layers - 1 if is_own else np.zeros(len(cells), bool)
        segments: list[tuple[int, int, int]] = []
        missing: list[int] = []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            own = np.flatnonzero(last[start:stop])
            final = start + int(own[0]) if len(own) else len(cells) + len(missing)
            missing += [] if len(own) else [int(cells.positions[start])]
            segments.append((start, stop, final))
        return segments, np.array(missing, np.int64)

    def _is_same(self, cells: Cells, their_cells: Cells) -> Tensor | None:
        """Which cells have the reference's states, bit for bit; None where another model reads those."""
        run, against = self._asked.run, self._asked.against
        if against is None or against.tail is not run.tail:
            return None
        own = run.states_of(self._asked.site, cells)
        theirs = against.states_of(self._asked.site, their_cells)
        return (own == theirs.to(own.device)).all(-1)

    def _last(self, positions: Ints) -> Cells:
        return Cells(np.full(len(positions), self._asked.run.n_layers - 1), positions)

    def _prepare(self, run: Run, cells: Cells, lens: Lens, site: str) -> Tensor:
        """States through the lens and the final norm, `[cells, d_unembed]`."""
        states = run.states_of(site, cells)
        if not isinstance(lens, LogitLens):
            carried: Tensor | None = None
            for layer in np.unique(cells.layers).tolist():
                rows = torch.from_numpy(np.flatnonzero(cells.layers == layer)).to(states.device)
                part = carry(lens, layer, states[rows])
                carried = torch.empty_like(states, dtype=part.dtype) if carried is None else carried
                carried = carried if carried.dtype == part.dtype else carried.to(torch.float32)
                carried[rows] = part.to(carried.dtype)
            states = states if carried is None else carried
        return self._unembeds[id(run.tail)].prepare(states)

    def _project(self, parts: list[Tensor]) -> tuple[Tensor, Exact | None]:
        """The logits of all parts in one tensor, and how to compute some of them again in float64."""
        own, other = self._asked.run.tail, self._asked.against and self._asked.against.tail
        unembed = self._unembeds[id(own)]
        if other is None or other is own:
            prepared = torch.cat(parts) if len(parts) > 1 else parts[0]
            if prepared.device.type == "mps":  # which has no float64
                return unembed(prepared).cpu(), None
            return unembed(prepared), partial(exact_logits, unembed, prepared) if unembed.is_exact else None
        rows, their_unembed, their_rows = torch.cat(parts[:-1]), self._unembeds[id(other)], parts[-1]
        theirs = their_unembed(their_rows).to(rows.device)

        def exact(ids: Tensor, of: Tensor | None = None) -> Tensor:
            if of is not None:  # cells of this run
                return unembed.exact(rows[of], ids)
            own_ids, their_ids = ids[: len(rows)], ids[len(rows) :].to(their_rows.device)
            return torch.cat(
                [unembed.exact(rows, own_ids), their_unembed.exact(their_rows, their_ids).to(ids.device)]
            )

        return torch.cat(
            [unembed(rows), theirs]
        ), exact if unembed.is_exact and their_unembed.is_exact else None


def exact_logits(unembed: Unembed, prepared: Tensor, ids: Tensor, of: Tensor | None = None) -> Tensor:
    """Some logits again, of all rows or of some: `[rows, m]` ids to float64 `[rows, m]`."""
    return unembed.exact(prepared if of is None else prepared[of], ids)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    is_own_kind = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_own_kind or "not enough memory" in str(error) or "out of memory" in str(error)
