"""The grids of a causal map, filled batch by batch."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.interventions.effects import Array, CausalMap
from lenswidget.interventions.gradients import site_gradients
from lenswidget.interventions.head_map import removed
from lenswidget.interventions.joined_rows import joined_logits
from lenswidget.interventions.map_request import MapRequest
from lenswidget.interventions.patched_rows import JOINED, OURS, Cell, PatchedRows
from lenswidget.tolerances import PATCHED_ROWS, largest

# Of layers that are filled coarse to fine: every 8th first, every 4th of the others next, and so on.
COARSEST = 8
# Name of an effect, and of the grid that it is made of.
GRID_OF = {"denoising": "denoised", "noising": "noised", "ablation": "ablated", "estimate": "estimated"}
Steps = Generator[tuple[int, int], None, None]


@dataclass
class _Sweep:
    """One grid to be filled.

    Attributes:
        into: the prompt that is changed.
        new: by layer, what is put into each column, `[seq, d_model]`.
        before: the metric without a change.
    """

    into: PatchedRows
    new: Mapping[int, Tensor]
    before: float


class Mapper:
    """Fills the grids of one map. Step it under the model's lock, in evaluation mode and without gradients.

    Args:
        is_growing: the estimate first, then layers coarse to fine: for a map that is watched as it grows.
    """

    def __init__(self, model: ReadableModel, asked: MapRequest, *, is_growing: bool = False) -> None:
        self._model, self._asked, self._is_growing = model, asked, is_growing
        self._way, self._error, self._n_checked = "", 0.0, 0
        self._text = "the estimate alone"
        self._failed: dict[str, Exception] = {}
        self._done = 0
        self._rows = [i for i, layer in enumerate(asked.layers) if asked.site in model.layers[layer].offered]
        n_sweeps = len(asked.measure - {"estimate"})
        self._total = len(self._rows) * len(asked.positions) * n_sweeps
        self._grids: dict[str, Array] = {}
        self._clean = self._corrupt = float("nan")

    def steps(self) -> Steps:
        """Run all of it; yields `(cells done, cells in all)` after each batch."""
        asked, model = self._asked, self._model
        clean = PatchedRows.of(model, asked.clean, asked.site)
        self._clean = float(asked.metric(clean.logits)[0])
        if asked.corrupt is None:
            new = {layer: removed(asked.ablate, states) for layer, states in clean.states.items()}
            back = there = _Sweep(clean, new, self._clean)
        else:
            corrupt = PatchedRows.of(model, asked.corrupt, asked.site)
            self._corrupt = float(asked.metric(corrupt.logits)[0])
            asked.check_apart(self._clean, self._corrupt)
            back = _Sweep(corrupt, clean.states, self._corrupt)
            there = _Sweep(clean, corrupt.states, self._clean)
        names = ["denoising", "noising", "ablation", "estimate"]
        for name in sorted(names, key=lambda name: name != "estimate") if self._is_growing else names:
            if name in asked.measure:
                shape = (len(asked.layers), len(asked.positions))
                grid = self._grids[GRID_OF[name]] = np.full(shape, np.nan)
                if name == "estimate":
                    self._estimate(back, grid)
                    yield self._done, self._total
                else:
                    yield from self._sweep(there if name == "noising" else back, grid)
        yield self._total, self._total

    def value(self) -> CausalMap:
        """The map as far as it is filled; NaN where not."""
        asked, grids = self._asked, self._grids
        return CausalMap(
            site=asked.site,
            metric=asked.metric.name,
            answer_id=asked.metric.answer_id,
            foil_id=asked.metric.foil_id,
            ablate=asked.ablate,
            layers=np.array(asked.layers, np.int64),
            positions=np.array(asked.positions, np.int64),
            clean_ids=asked.clean.column_ids.numpy(),
            corrupt_ids=None if asked.corrupt is None else asked.corrupt.column_ids.numpy(),
            clean=self._clean,
            corrupt=self._corrupt,
            denoised=grids.get("denoised"),
            noised=grids.get("noised"),
            ablated=grids.get("ablated"),
            estimated=grids.get("estimated"),
            way=self._text,
            error=self._error,
            n_checked=self._n_checked,
            tokenizer=self._model.tokenizer,
        )

    def _sweep(self, sweep: _Sweep, grid: Array) -> Steps:
        """Fills a grid `[layers, positions]` with the metric where each cell is changed."""
        asked, into = self._asked, sweep.into
        row_of = {asked.layers[row]: row for row in self._rows}
        column_of = {position: column for column, position in enumerate(asked.positions)}

        def fill(found: Mapping[Cell, float]) -> None:
            for (layer, position), metric in found.items():
                grid[row_of[layer], column_of[position]] = metric

        changed: dict[int, list[int]] = {}
        for layer in row_of:
            new = sweep.new[layer]
            same = (new == into.states[layer].to(new.device)).all(-1).tolist()
            # nothing changes where the two prompts have the very same states: before their first difference
            known = {(layer, position): sweep.before for position in asked.positions if same[position]}
            fill(known)
            self._done += len(known)
            changed[layer] = [position for position in asked.positions if not same[position]]
        changed = {layer: positions for layer, positions in changed.items() if positions}
        if changed:
            yield self._done, self._total
            fill(self._settle(sweep, changed))
            yield self._done, self._total
        for batch in self._batches(into, self._way, changed):
            if any(np.isnan(grid[row_of[layer], column_of[position]]) for layer, position in batch):
                fill(self._run(sweep, self._way, batch)[0])
                self._done += len(batch)
                yield min(self._done, self._total), self._total

    def _batches(self, into: PatchedRows, way: str, changed: Mapping[int, list[int]]) -> list[list[Cell]]:
        if not self._is_growing:
            return into.batches(way, changed)
        found: list[list[Cell]] = []
        left = sorted(changed, reverse=True)
        step = COARSEST
        while step > 1:
            # else a layer at a time: a batch is run from its lowest layer on
            level = sorted(left[::step])
            for layers in [level] if way == JOINED else [[layer] for layer in reversed(level)]:
                found += into.batches(way, {layer: changed[layer] for layer in layers})
            left = [layer for i, layer in enumerate(left) if i % step]
            step //= 2
        return [*found, *into.batches(way, {layer: changed[layer] for layer in sorted(left)})]

    def _run(self, sweep: _Sweep, way: str, cells: list[Cell]) -> tuple[dict[Cell, float], Tensor]:
        """The metric at each cell of a batch, and the logits `[cells, d_vocab]`."""
        new = torch.stack([sweep.new[layer][column] for layer, column in cells])
        logits = (
            joined_logits(sweep.into, cells, new) if way == JOINED else sweep.into.patched(way, cells, new)
        )
        return dict(zip(cells, self._asked.metric(logits).tolist(), strict=True)), logits

    def _settle(self, sweep: _Sweep, changed: dict[int, list[int]]) -> dict[Cell, float]:
        """Choose the cheapest way that gives in some cells what whole forwards of one row give.

        Returns:
            The metric of the cells that were run to see it.
        """
        ways = sweep.into.ways
        ways = ways[ways.index(self._way) :] if self._way in ways else ways
        layers = sorted(changed)
        first, middle, last = layers[0], layers[len(layers) // 2], layers[-1]
        cells = {
            (first, changed[first][0]),
            (middle, changed[middle][len(changed[middle]) // 2]),
            (last, changed[last][-1]),
        }
        whole = {cell: self._run(sweep, "whole", [cell])[1][0] for cell in sorted(cells)}
        for way in ways[:-1]:
            # the model's own code: whatever it cannot do is done by whole forwards
            try:
                found, error = self._check(sweep, way, changed, whole)
            except OURS:
                raise
            except Exception as failure:
                self._failed.setdefault(way, failure.with_traceback(None))
                continue
            dtype = getattr(self._model.hf_model, "dtype", torch.float32)
            if all(gap <= PATCHED_ROWS.bound(largest(whole[cell]), dtype) for cell, gap in error.items()):
                self._way, self._error = way, max(self._error, *error.values())
                self._text = sweep.into.describe_after(way, self._failed)
                self._n_checked += len(whole)
                self._done += len(found)
                return found
        self._way, self._error, self._n_checked = "whole", 0.0, 0
        self._text = sweep.into.describe_after("whole", self._failed)
        return {}

    def _check(
        self, sweep: _Sweep, way: str, changed: dict[int, list[int]], whole: dict[Cell, Tensor]
    ) -> tuple[dict[Cell, float], dict[Cell, float]]:
        """The metric of the batches that hold some cells, and how far these are from whole forwards."""
        found: dict[Cell, float] = {}
        error: dict[Cell, float] = {}
        for batch in self._batches(sweep.into, way, changed):
            held = [cell for cell in batch if cell in whole]
            if held:
                metrics, logits = self._run(sweep, way, batch)
                found |= metrics
                error |= {cell: largest(logits[batch.index(cell)] - whole[cell]) for cell in held}
        return found, error

    def _estimate(self, sweep: _Sweep, grid: Array) -> None:
        """Fills a grid with the metric where each cell is changed, to first order."""
        asked, into = self._asked, sweep.into
        layers = [asked.layers[row] for row in self._rows]
        gradients = site_gradients(self._model, into.prompt, into.columns, asked.site, layers, asked.metric)
        for row in self._rows:
            layer = asked.layers[row]
            new, old = sweep.new[layer].cpu().double(), into.states[layer].cpu().double()
            products = ((new - old) * gradients[layer].cpu().double()).sum(-1)
            grid[row] = sweep.before + products[asked.positions].numpy()
