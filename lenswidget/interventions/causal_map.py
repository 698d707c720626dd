"""Causal maps: every cell patched or removed in turn, and what that does to the answer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import Cancelled, LensError
from lenswidget.interventions.effects import Array, CausalMap
from lenswidget.interventions.gradients import site_gradients
from lenswidget.interventions.head_map import HeadMapper, removed
from lenswidget.interventions.map_request import HEADS, MapRequest
from lenswidget.interventions.patched_rows import WAYS, Cell, PatchedRows
from lenswidget.models.facts import held
from lenswidget.models.prompts import Prompt
from lenswidget.progress import Progress, reporting
from lenswidget.tolerances import PATCHED_ROWS, largest


def causal_map(
    model: ReadableModel,
    clean: Prompt,
    corrupt: Prompt | None = None,
    *,
    answer: Any,
    foil: Any = None,
    site: str = "resid_post",
    metric: str | None = None,
    ablate: str | None = None,
    measure: Collection[str] | None = None,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> CausalMap:
    """Patch, or remove, each cell of a site in turn, and measure the answer at the prompt's end.

    Only what a change can reach is run: the blocks from its layer on and, where keys and values of the
    tokens before it can be kept, the tokens from its position on; several cells in a batch. That is compared
    with whole forwards in a few cells of every map; where it is not the same, whole forwards are run, and
    `CausalMap.way` says so. Memory holds one batch beside the streams of the prompts.

    Args:
        model: a `LanguageModel`.
        clean: the prompt that has the answer.
        corrupt: one of as many tokens that has not; None for a map of `ablate`.
        answer, foil: tokens, as ids or as texts that are one token.
        site: `resid_pre`, `resid_mid`, `resid_post`, `attn_out` or `mlp_out`; or "heads", whose grid is
            `[layers, heads]`: each head in turn, at all of `positions` together.
        metric: "logit_diff", the answer's logit less the foil's, or "log_prob" of the answer in nats. Unless
            given, the first where there is a foil.
        ablate: "zero", or "mean" over the prompt's positions, in place of a corrupt prompt.
        measure: any of "denoising" (clean cells into the corrupt prompt), "noising" (corrupt cells into the
            clean prompt) and "estimate" (denoising to first order, by one backward pass); with `ablate`, of
            "ablation" and "estimate". All unless given.
        layers, positions: some of them; all unless given. -1 is the last position.
        progress: called with `(cells done, cells in all)`; True shows a tqdm bar.
        cancelled: asked between batches; once it says True, `Cancelled` is raised.
    Raises:
        EditError: prompts that do not go together, or an argument that is not known.
        AnatomyError: a site that no layer offers.
        CellError: a layer or token that the model does not have.
        Cancelled: `cancelled` said so.
    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT"; Nanda 2023, "Attribution
        Patching: Activation Patching At Industrial Scale", for the estimate.
    """
    if not (cancelled is None or callable(cancelled)):
        raise LensError(f"The map's cancelled is {cancelled!r:.60}; pass a function that says True to stop.")
    asked = MapRequest.checked(
        model, clean, corrupt, answer, foil, site, metric, ablate, measure, layers, positions
    )
    _ = (
        model.anatomy.units if asked.site == HEADS else model.anatomy
    )  # found before the model is taken for unchanged
    with held(model.hf_model), reporting(progress, "causal map", "cell") as report:
        if asked.site == HEADS:
            return HeadMapper(model, asked, report, cancelled).map()
        return _Mapper(model, asked, report, cancelled).map()


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


class _Mapper:
    """Fills the grids of one map."""

    def __init__(
        self,
        model: ReadableModel,
        asked: MapRequest,
        report: Callable[[int, int], object],
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._model, self._asked = model, asked
        self._report, self._cancelled = report, cancelled
        self._way, self._error, self._n_checked = "", 0.0, 0
        self._done = 0
        self._rows = [i for i, layer in enumerate(asked.layers) if asked.site in model.layers[layer].offered]
        n_sweeps = len(asked.measure - {"estimate"})
        self._total = len(self._rows) * len(asked.positions) * n_sweeps

    def map(self) -> CausalMap:
        asked, model = self._asked, self._model
        clean = PatchedRows.of(model, asked.clean, asked.site)
        m_clean, m_corrupt = float(asked.metric(clean.logits)[0]), float("nan")
        grids: dict[str, Array] = {}
        if asked.corrupt is None:
            new = {layer: removed(asked.ablate, states) for layer, states in clean.states.items()}
            back = there = _Sweep(clean, new, m_clean)
        else:
            corrupt = PatchedRows.of(model, asked.corrupt, asked.site)
            m_corrupt = float(asked.metric(corrupt.logits)[0])
            asked.check_apart(m_clean, m_corrupt)
            back, there = _Sweep(corrupt, clean.states, m_corrupt), _Sweep(clean, corrupt.states, m_clean)
        sweeps = {
            "denoising": ("denoised", back),
            "noising": ("noised", there),
            "ablation": ("ablated", back),
        }
        for name, (grid, sweep) in sweeps.items():
            if name in asked.measure:
                grids[grid] = self._sweep(sweep)
        if "estimate" in asked.measure:
            grids["estimated"] = self._estimate(back)
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
            estimated=grids.get("estimated"),
            way=WAYS.get(self._way, "the estimate alone"),
            error=self._error,
            n_checked=self._n_checked,
            tokenizer=model.tokenizer,
        )

    def _sweep(self, sweep: _Sweep) -> Array:
        """The metric with each cell changed, `[layers, positions]`."""
        asked, into = self._asked, sweep.into
        found: dict[Cell, float] = {}
        changed: dict[int, list[int]] = {}
        for layer in (asked.layers[row] for row in self._rows):
            new = sweep.new[layer]
            same = (new == into.states[layer].to(new.device)).all(-1).tolist()
            # nothing changes where the two prompts have the very same states: before their first difference
            found |= {(layer, column): sweep.before for column in asked.positions if same[column]}
            changed[layer] = [column for column in asked.positions if not same[column]]
        self._done += len(found)
        changed = {layer: columns for layer, columns in changed.items() if columns}
        if changed:
            found |= self._settle(sweep, changed)
        for batch in into.batches(self._way, changed):
            if not found.keys() >= set(batch):
                found |= self._run(sweep, self._way, batch)[0]
                self._done += len(batch)
        grid = np.full((len(asked.layers), len(asked.positions)), np.nan)
        for row in self._rows:
            grid[row] = [found[asked.layers[row], column] for column in asked.positions]
        return grid

    def _run(self, sweep: _Sweep, way: str, cells: list[Cell]) -> tuple[dict[Cell, float], Tensor]:
        """The metric at each cell of a batch, and the logits `[cells, d_vocab]`."""
        self._stop_if_asked()
        new = torch.stack([sweep.new[layer][column] for layer, column in cells])
        logits = sweep.into.patched(way, cells, new)
        self._report(self._done, self._total)
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
            except Cancelled:
                raise
            except Exception:
                continue
            dtype = getattr(self._model.hf_model, "dtype", torch.float32)
            if all(gap <= PATCHED_ROWS.bound(largest(whole[cell]), dtype) for cell, gap in error.items()):
                self._way, self._error = way, max(self._error, *error.values())
                self._n_checked += len(whole)
                self._done += len(found)
                return found
        self._way, self._error, self._n_checked = "whole", 0.0, 0
        return {}

    def _check(
        self, sweep: _Sweep, way: str, changed: dict[int, list[int]], whole: dict[Cell, Tensor]
    ) -> tuple[dict[Cell, float], dict[Cell, float]]:
        """The metric of the batches that hold some cells, and how far these are from whole forwards."""
        found: dict[Cell, float] = {}
        error: dict[Cell, float] = {}
        for batch in sweep.into.batches(way, changed):
            held = [cell for cell in batch if cell in whole]
            if held:
                metrics, logits = self._run(sweep, way, batch)
                found |= metrics
                error |= {cell: largest(logits[batch.index(cell)] - whole[cell]) for cell in held}
        return found, error

    def _estimate(self, sweep: _Sweep) -> Array:
        """The metric with each cell changed, to first order, `[layers, positions]`."""
        asked, into = self._asked, sweep.into
        grid = np.full((len(asked.layers), len(asked.positions)), np.nan)
        layers = [asked.layers[row] for row in self._rows]
        gradients = site_gradients(self._model, into.prompt, into.columns, asked.site, layers, asked.metric)
        for row in self._rows:
            layer = asked.layers[row]
            new, old = sweep.new[layer].cpu().double(), into.states[layer].cpu().double()
            products = ((new - old) * gradients[layer].cpu().double()).sum(-1)
            grid[row] = sweep.before + products[asked.positions].numpy()
        return grid

    def _stop_if_asked(self) -> None:
        if self._cancelled is not None and self._cancelled():
            raise Cancelled(f"The causal map was stopped after {self._done} of {self._total} cells.")
