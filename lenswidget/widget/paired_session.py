"""The session of two runs on one grid: each request is answered by the side that it is about, or by both."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from lenswidget.errors import CellError, EditError, LensError, PromptError
from lenswidget.lenses.lens import LensLike, covered_layers
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.readout.cells import Cells
from lenswidget.readout.engine import Engine
from lenswidget.readout.given_run import GivenRunEngine
from lenswidget.readout.pair import Pair, tracked_in_both
from lenswidget.readout.paired_reading import scatter
from lenswidget.readout.query import Query
from lenswidget.readout.run import EMBED_SITE, Run, RunSpec
from lenswidget.tracing.locks import ModelLock
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.labels import Labels
from lenswidget.widget.messages import CardMessage, RunMessage, run_message
from lenswidget.widget.paired_grid import PairedGrid
from lenswidget.widget.requests import AttentionRequest, DecodeRequest, ReadRequest, WhyRequest
from lenswidget.widget.session import Session, Slices
from lenswidget.widget.shared_ids import SharedIds
from lenswidget.widget.why import AttentionMessage, WhyMessage, why


class PairedSession(Session):
    """Two runs side by side. The second is the run that is shown, the first stands in the place of its base.

    A run belongs to one pair: its id names the pair, and the side.

    Args:
        pair: the runs to begin with.
    """

    def __init__(
        self,
        pair: Pair,
        lens: LensLike | str = None,
        lenses: Collection[Any] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        engines = [
            engine or GivenRunEngine(run) for engine, run in zip(pair.engines, (pair.a, pair.b), strict=True)
        ]
        self._first: Engine = engines[0]
        self._grids: dict[str, PairedGrid[Any]] = {}
        super().__init__(engines[1], lens, lenses, strict=strict)
        first = Labels(pair.a.model.tokenizer, pair.a.model.d_vocab)
        self.ids = SharedIds((first, self.labels), is_one=pair.why_no_kl is None)
        self.labels = self.ids.labels
        for each in self.lenses.values():
            self._first.check_lens(each)
        self._pair = pair

    # --- runs

    @property
    def is_paired(self) -> bool:
        return True

    @property
    def locks(self) -> tuple[ModelLock, ...]:
        return (self._engine.lock, self._first.lock)

    @property
    def grid(self) -> PairedGrid[Any]:
        """That of the runs that are shown."""
        return self._grids[self.shown]

    @property
    def pair(self) -> Pair:
        """The runs that are shown."""
        return self.grid.pair

    @property
    def pair_at_first(self) -> Pair:
        """The runs that it began with, of the same models and vocabularies as all others."""
        return self._pair

    @property
    def has_answer_in_both(self) -> bool:
        """Whether what the first run answers is a token of the second's vocabulary too."""
        answer = self._answer_of(self._pair.a).ids[0, :1].tolist()
        return self.ids.in_vocabulary(1, answer)[0] >= 0

    def texts_in_both(self, ids: Sequence[int]) -> list[str]:
        """The texts of those of the page's ids that are one token in either vocabulary."""
        found: list[str] = []
        for i in ids:
            text = self.labels[i].raw
            with suppress(LensError):
                tracked_in_both([text], self._pair)
                found.append(text)
        return found

    @property
    def n_columns(self) -> int:
        return len(self.grid.columns)

    def first(self) -> Runs:
        """The runs to begin with."""
        return self._paired(self._pair.a, self._pair.b)

    def execute(self, spec: RunSpec) -> Runs:
        """Run a recipe on the second side; on the first as well, unless its prompt is one of its own.

        Raises:
            EditError: the recipe has edits.
        """
        if spec.active_edits:
            raise EditError(
                "A comparison takes no edits. Edit one side, as model.lens(prompt, edits=[...]), or compare "
                "two runs: CompareWidget(model.run(prompt), model.run(prompt, edits=[...]))."
            )
        pair, other = self._pair, spec
        if pair.by == "model":
            options = dict(spec.prompt.options)
            other = RunSpec(self._first.encode(spec.prompt.as_given, **options), spec.sites)
        if pair.by == "prompt":
            a = pair.a if pair.a.is_current else self._first.run(pair.a.spec)
        else:
            a = self._first.run(other)
        return self._paired(a, self._execute(spec))

    def _paired(self, a: Run, b: Run) -> Runs:
        # ids of their own: an earlier pair may have had the same first run, on other columns
        pair = replace(self._pair, a=replace(a, id=uuid.uuid4().hex), b=replace(b, id=uuid.uuid4().hex))
        if pair.by in ("prompt", "run"):
            names = tuple(repr(run.prompt)[:60] for run in (a, b))
            pair = replace(pair, names=pair.names if pair.by == "run" else (names[0], names[1]))
        grid: PairedGrid[Any] = PairedGrid(pair, self.ids)
        for run in (pair.a, pair.b):
            self._grids[run.id] = grid
        return Runs(pair.b, pair.a)

    def _execute(self, spec: RunSpec, *bases: Run) -> Run:
        # nothing is taken over: the runs that are kept are of both sides
        return self.check_run(self._engine.run(spec, reuse=False))

    def show(self, runs: Runs, instead_of: str = "") -> None:
        super().show(runs, instead_of)
        self._grids = {run_id: grid for run_id, grid in self._grids.items() if run_id in self._specs}

    def run_of(self, run_id: str) -> Run:
        spec = self.spec_of(run_id)
        if run_id not in self._runs:
            side = self._grids[run_id].side(run_id)
            run = self._execute(spec) if side else self._first.run(spec)
            self._runs[run_id] = replace(run, id=run_id)
        return self._runs[run_id]

    def release(self) -> None:
        super().release()
        self._first.let_go()

    def recipe_state(self) -> dict[str, Any]:
        a, b = self.pair.a.spec, self.pair.b.spec
        if a.active_edits or b.active_edits:
            raise PromptError("A comparison of runs with edits has no recipe.")
        return {"a": a.prompt.to_state(), "b": b.prompt.to_state()}

    def describe(self) -> RunMessage:
        sides = [self._described(side) for side in (0, 1)]
        grid = self.grid
        has = (grid.columns >= 0).T.tolist()
        compared = {
            "base": sides[0],
            "names": list(grid.pair.names),
            "by": grid.pair.by,
            "has_a": has[0],
            "has_b": has[1],
            "is_same": grid.is_same_token.tolist(),
            "why_no_kl": grid.pair.why_no_kl,
        }
        message: Any = {**sides[1], "compared": compared}
        return message

    def _described(self, side: int) -> dict[str, Any]:
        run, engine = self.grid.run(side), (self._first, self._engine)[side]
        message = run_message(run, self.ids.own[side], self._reports(engine), self._answer_of(run))
        return self.grid.described(side, message)

    def set_source(self, prompt: Any) -> RunMessage | None:
        """Refuses.

        Raises:
            EditError: always, but for None.
        """
        if prompt is None:
            return None
        raise EditError(
            "A comparison takes no patches. Set w.source of a widget of one prompt: model.lens(prompt)."
        )

    def growing_map(self, **asked: Any) -> Any:
        """Refuses.

        Raises:
            EditError: always.
        """
        raise EditError(
            "A comparison has no causal map. Ask for one of a widget of one prompt: model.lens(prompt)."
        )

    def _encode_again(self, prompt: Any) -> EncodedPrompt:
        if self._pair.by == "run":
            return self._engine.encode(prompt)
        return super()._encode_again(prompt)

    # --- requests

    def read(self, request: ReadRequest) -> Slices:
        grid, lens = self._grid_of(request.run_id), self.lens(request.lens)
        carried = [covered_layers(lens, grid.run(side).n_layers) for side in (0, 1)]
        rows = [
            i
            for i, layer in enumerate(request.layers)
            if all(grid.layer(side, layer, request.site) in carried[side] for side in (0, 1))
        ]
        outside = [column for column in request.positions if not 0 <= column < len(grid.columns)]
        if outside:
            raise CellError(f"Asked for column {outside[0]} of a grid of {len(grid.columns)}.")
        cells = grid.cells(
            request,
            [request.layers[i] for i in rows],
            lens=lens,
            k=min(request.k, self.info.d_vocab),
            metrics=tuple(name for name in request.metrics if name != "js"),
        )
        if request.against is not None:
            if request.against != grid.pair.a.id or request.run_id != grid.pair.b.id:
                raise CellError("The page asked to compare runs that are not this pair.")
            found = yield from cells.slices(self._engine.read_slices)
        else:
            side = grid.side(request.run_id)
            has = cells.positions[:, side] >= 0
            query = Query(
                grid.run(side),
                Cells(cells.layers[has, side], cells.positions[has, side]),
                lens=lens,
                site=request.site,
                k=cells.k,
                track=tuple(cells.tracked[side]),
                metrics=cells.metrics,
            )
            readout = yield from self._engine.read_slices(query)
            found: dict[str, np.ndarray] = {}
            scatter(found, readout, has)
        return grid.packed(request, rows, found)

    def decode(self, request: DecodeRequest) -> CardMessage:
        """One cell decoded again, with the card of the same cell of the other side, if that has it."""
        grid = self._grid_of(request.run_id)
        side = grid.side(request.run_id)
        own = self._card(grid, side, request)
        other: CardMessage | None = None
        if grid.has(1 - side, request.position):
            track = list(dict.fromkeys([*request.track, *own["ids"]]))
            there = replace(request, run_id=grid.run(1 - side).id, track=track)
            other = self._card(grid, 1 - side, there)
        beside: Any = {**own, "side": side, "beside": other}
        return beside

    def _card(self, grid: PairedGrid[Any], side: int, request: DecodeRequest) -> CardMessage:
        card = self._with_shown_ids(super().decode(grid.in_run(side, request)), side)
        below = card["layer_below"]
        if below is not None and grid.pair.a.n_layers != grid.pair.b.n_layers:
            # a row of the grid need not be the layer below it
            below = None
        is_told = below is not None or card["layer_below"] is None
        ranks = card["rank_below"] if is_told else [None] * len(card["rank_below"])
        at = {"layer": request.layer, "position": request.position}
        unsaid: dict[str, Any] = {} if is_told else {"promoted": [], "suppressed": []}
        told: Any = {**card, **at, "layer_below": below, "rank_below": ranks, **unsaid}
        return told

    def _labels_of(self, run_id: str) -> Labels:
        return self.ids.own[self._grid_of(run_id).side(run_id)]

    def _with_shown_ids(self, card: CardMessage, side: int) -> CardMessage:
        def shown(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
            ids = self.ids.shown(side, [entry["id"] for entry in entries]).tolist()
            return [{**entry, "id": i} for entry, i in zip(entries, ids, strict=True)]

        told: Any = {
            **card,
            "ids": self.ids.shown(side, card["ids"]).tolist(),
            **{name: shown(card[name]) for name in ("promoted", "suppressed", "tracked")},
        }
        return told

    def code(self, request: DecodeRequest) -> dict[str, Any]:
        grid = self._grid_of(request.run_id)
        side = grid.side(request.run_id)
        if grid.pair.by == "adapter" and not side:
            raise LensError(
                "Asked for code of the run without the adapter, which a trace cannot switch off. Copy the "
                "other side's, and run it within hf_model.disable_adapter()."
            )
        if request.why is not None:
            request = replace(request, why=self._target_in_run(request.why, side))
        return super().code(grid.in_run(side, request))

    def _target_in_run(self, target: Any, side: int) -> Any:
        """A token and a foil of the page as ids of a side's own vocabulary."""
        asked = [target.token, *([] if target.foil is None else [target.foil])]
        ids = self.ids.in_vocabulary(side, asked)
        if min(ids) < 0:
            label = self.labels[asked[ids.index(min(ids))]].text
            raise CellError(
                f"Asked to explain {label!r}, which {self.pair.names[side]} lacks. Choose another token."
            )
        return replace(target, token=ids[0], foil=None if target.foil is None else ids[1])

    def why(self, request: WhyRequest) -> WhyMessage:
        """What a cell of the grid is made of in its run; positions that were read are told as columns."""
        grid = self._grid_of(request.run_id)
        side = grid.side(request.run_id)
        of_layer = request.of_layer
        if of_layer is not None:
            of_layer = grid.layer(side, of_layer, EMBED_SITE)
        column_of = {position: column for column, position in enumerate(grid.columns[:, side].tolist())}
        own = replace(
            self._target_in_run(request, side),
            layer=grid.layer(side, request.layer, EMBED_SITE),
            position=grid.position(side, request.position),
            of_layer=of_layer,
        )
        found = why(own, self.run_of(request.run_id), None, self.lens(request.lens), self.ids.own[side])
        for name, asked in (("token", request.token), ("foil", request.foil)):
            if found[name] is not None:
                found[name] = {**found[name], "id": asked}
        for term in found["terms"]:
            if term["kind"] == "source":
                term["unit"] = column_of[term["unit"]]
        return {**found, "layer": request.layer, "position": request.position}

    def attention(self, request: AttentionRequest) -> AttentionMessage:
        """Where a cell of the grid looks in its run, by column."""
        grid = self._grid_of(request.run_id)
        side = grid.side(request.run_id)
        layer = grid.layer(side, request.layer, EMBED_SITE)
        own = replace(request, layer=layer, position=grid.position(side, request.position))
        found = super().attention(own)
        columns = grid.columns[:, side].tolist()
        return {
            "layer": request.layer,
            "position": request.position,
            "weights": [grid.at_columns(side, row, 0.0) for row in found["weights"]],
            "read": grid.at_columns(side, found["read"], 0.0),
            "sinks": [columns.index(position) for position in found["sinks"]],
        }

    def _grid_of(self, run_id: str) -> PairedGrid[Any]:
        self.spec_of(run_id)
        return self._grids[run_id]

    # --- checks

    def check_ids(self, ids: Sequence[Any]) -> None:
        self.ids.check(ids)

    def token_id(self, token: Any) -> int:
        return self.ids.token_id(token)

    def check(self, layer: int, position: int, site: str, lens: str) -> None:
        super().check(self.grid.layer(1, layer, site), self.grid.position(1, position), site, lens)
        if layer >= self.pair.a.n_layers:
            raise CellError(f"Asked for layer {layer} of a grid of {self.pair.a.n_layers}.")

    def layers(self, site: str, lens: str) -> list[int]:
        return self.pair.align(site, self.lens(lens)).rows[:, 0].tolist()


def prompts_of(state: Mapping[str, Any]) -> list[Any]:
    """The two prompts of a comparison's state, as JSON of `EncodedPrompt.to_state`.

    Raises:
        PromptError: it has none.
    """
    match state.get("recipe"):
        case {"a": dict(a), "b": dict(b)}:
            return [a, b]
        case _:
            raise PromptError("The state is not of a comparison. Pass w.state of a CompareWidget.")
