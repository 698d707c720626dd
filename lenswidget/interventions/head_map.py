"""Causal maps by head: each attention head patched or removed in turn, at the same positions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.anatomy.units import Units
from lenswidget.errors import Cancelled
from lenswidget.interventions.changes import Change, Rule, read_states
from lenswidget.interventions.effects import Array, CausalMap
from lenswidget.interventions.map_request import HEADS, MapRequest
from lenswidget.interventions.patched_rows import JOINED, MOST_TOKENS, OURS, PatchedRows
from lenswidget.interventions.recipe import Edit
from lenswidget.models.encoded_prompt import EncodedPrompt, column_source
from lenswidget.tolerances import PATCHED_ROWS, largest

# What a layer's heads are put in place of: from all heads' outputs `[seq, n * d]` to others.
Inputs = Mapping[int, Float[Tensor, "seq width"]]


@dataclass(frozen=True, eq=False)
class _Sweep:
    """One grid to be filled.

    Attributes:
        into: the prompt that is changed.
        new: by layer, what the heads give instead, at every position of the model's own sequence.
        before: the metric without a change.
    """

    into: PatchedRows
    new: Inputs
    before: float


class HeadMapper:
    """Fills the grids of one map; call `map` under the model's lock, its facts pinned."""

    def __init__(
        self,
        model: ReadableModel,
        asked: MapRequest,
        report: Callable[[int, int], object],
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._model, self._asked = model, asked
        self._report, self._cancelled = report, cancelled
        found = {layer: model.anatomy.units[layer].heads for layer in asked.layers}
        self._units: dict[int, Units] = {layer: units for layer, units in found.items() if units}
        self._n_heads = max((units.n for units in self._units.values()), default=0)
        self._way, self._error, self._n_checked, self._done = "", 0.0, 0, 0
        self._failed: dict[str, Exception] = {}
        self._total = sum(units.n for units in self._units.values()) * len(asked.measure)

    def map(self) -> CausalMap:
        asked = self._asked
        clean, of_clean = self._run(asked.clean)
        m_clean, m_corrupt = float(asked.metric(clean.logits)[0]), float("nan")
        grids: dict[str, Array] = {}
        if asked.corrupt is None:
            new = {layer: removed(asked.ablate, states) for layer, states in of_clean.items()}
            grids["ablated"] = self._sweep(_Sweep(clean, new, m_clean))
        else:
            corrupt, of_corrupt = self._run(asked.corrupt)
            m_corrupt = float(asked.metric(corrupt.logits)[0])
            asked.check_apart(m_clean, m_corrupt)
            if "denoising" in asked.measure:
                grids["denoised"] = self._sweep(_Sweep(corrupt, of_clean, m_corrupt))
            if "noising" in asked.measure:
                grids["noised"] = self._sweep(_Sweep(clean, of_corrupt, m_clean))
        self._report(self._total, self._total)
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
            clean=m_clean,
            corrupt=m_corrupt,
            denoised=grids.get("denoised"),
            noised=grids.get("noised"),
            ablated=grids.get("ablated"),
            estimated=None,
            way=clean.describe_after(self._way, self._failed),
            error=self._error,
            n_checked=self._n_checked,
            tokenizer=self._model.tokenizer,
            heads=np.arange(self._n_heads),
        )

    def _run(self, prompt: EncodedPrompt) -> tuple[PatchedRows, dict[int, Tensor]]:
        """A prompt's own forward, and what its heads give, by layer `[seq, n * d]`."""
        rows = PatchedRows.of(self._model, prompt, "attn_out")
        states = read_states(self._model, dict(prompt.model_inputs), (), HEADS, list(self._units))
        return rows, {layer: found[0] for layer, found in states.items()}

    def _sweep(self, sweep: _Sweep) -> Array:
        """The metric with each head changed, `[layers, heads]`."""
        asked = self._asked
        grid = np.full((len(asked.layers), self._n_heads), np.nan)
        self._settle(sweep)
        for row, layer in enumerate(asked.layers):
            units = self._units.get(layer)
            if units is None:
                continue
            for heads in self._batches(sweep, units):
                logits = self._patched(sweep, self._way, layer, heads)
                grid[row, heads] = asked.metric(logits).tolist()
                self._done += len(heads)
                self._report(self._done, self._total)
        return grid

    def _batches(self, sweep: _Sweep, units: Units) -> list[list[int]]:
        n_tokens = column_source(sweep.into.prompt.model_inputs).shape[1]
        if self._way == "after":
            n_tokens -= self._start(sweep.into, self._way)
        n_rows = 1 if self._way == "whole" else max(1, MOST_TOKENS // n_tokens)
        heads = list(range(units.n))
        return [heads[i : i + n_rows] for i in range(0, units.n, n_rows)]

    def _settle(self, sweep: _Sweep) -> None:
        """Choose the cheapest way that gives for some heads what whole forwards of one row give."""
        layers = sorted(self._units)
        cells = sorted(
            {(layers[0], 0), (layers[len(layers) // 2], self._units[layers[len(layers) // 2]].n - 1)}
        )
        whole = {cell: self._patched(sweep, "whole", cell[0], [cell[1]])[0] for cell in cells}
        ways = [way for way in sweep.into.ways if way != JOINED]  # each of its batches is of one layer
        ways = ways[ways.index(self._way) :] if self._way in ways else ways
        dtype = getattr(self._model.hf_model, "dtype", torch.float32)
        for way in ways[:-1]:
            errors: list[float] = []
            # the model's own code: whatever it cannot do is done by whole forwards
            try:
                for layer, head in cells:
                    other = (head + 1) % self._units[layer].n
                    found = self._patched(sweep, way, layer, [head, other])
                    errors.append(largest(found[0] - whole[layer, head]))
            except OURS:
                raise
            except Exception as failure:
                self._failed.setdefault(way, failure.with_traceback(None))
                continue
            bounds = [PATCHED_ROWS.bound(largest(whole[cell]), dtype) for cell in cells]
            if all(error <= bound for error, bound in zip(errors, bounds, strict=True)):
                self._way, self._error = way, max(self._error, *errors)
                self._n_checked += len(cells)
                return
        self._way, self._error, self._n_checked = "whole", 0.0, 0

    def _start(self, into: PatchedRows, way: str) -> int:
        return int(into.columns[self._asked.positions].min()) if way == "after" else 0

    def _patched(
        self, sweep: _Sweep, way: str, layer: int, heads: list[int]
    ) -> Float[Tensor, "heads d_vocab"]:
        """The logits at the last column where each of some heads is changed, one in each row."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled(f"The causal map was stopped after {self._done} of {self._total} heads.")
        start = self._start(sweep.into, way)
        columns = sweep.into.columns[self._asked.positions]
        new, units = sweep.new[layer], self._units[layer]
        change = Change(
            edit=Edit("zero", site="attn_out", heads=0),
            layer=layer,
            where=[columns - start] * len(heads),
            generated=False,
            rule=_put(units, heads, new[columns.to(new.device)]),
            units=units,
        )
        return sweep.into.changed(way, [change], len(heads), start)


def _put(units: Units, heads: list[int], new: Tensor) -> Rule:
    """Puts into batch row `i` the head `heads[i]` of `new`, `[positions, n * d]`."""

    def rule(rows: Tensor, states: Tensor, moment: object) -> Tensor:
        each = rows.view(len(heads), len(new), -1).clone()
        for row, head in enumerate(heads):
            at = units.slice(head)
            each[row, :, at] = new[:, at].to(each)
        return each.view(rows.shape)

    return rule


def removed(ablate: str | None, states: Tensor) -> Tensor:
    """What is put in place of `[seq, width]`."""
    if ablate == "zero":
        return torch.zeros_like(states)
    return states.float().mean(0, keepdim=True).to(states.dtype).expand_as(states)
