"""What a widget's requests are answered from: an engine, its lenses, its labels and its runs."""

import uuid
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

from lenswidget.errors import EditError, FidelityError, LensError, PromptError
from lenswidget.interventions.forking import forked
from lenswidget.interventions.recipe_code import edits_code
from lenswidget.interventions.recipe_state import edits_to_state
from lenswidget.lenses.lens import (
    CallableLens,
    Lens,
    LensLike,
    as_lens,
    check_carried,
    covered_layers,
)
from lenswidget.lenses.lens_report import LensReport
from lenswidget.models.encoded_prompt import EncodedPrompt
from lenswidget.progress import drain
from lenswidget.readout.attention import attention
from lenswidget.readout.background import Background
from lenswidget.readout.background_fit import background_slices, known_background
from lenswidget.readout.cells import Cells
from lenswidget.readout.continuing import Continues
from lenswidget.readout.engine import Engine
from lenswidget.readout.proof import effect_of, prove
from lenswidget.readout.query import Query, rows
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, Run, RunSpec
from lenswidget.readout.spine import Spine, spine_slices
from lenswidget.readout.taking_over import most_shared
from lenswidget.tracing.locks import ModelLock
from lenswidget.widget.card_code import cell_code
from lenswidget.widget.choices import Choices
from lenswidget.widget.edit_requests import edits_of
from lenswidget.widget.kept_runs import KeptRuns, Runs
from lenswidget.widget.labels import Labels
from lenswidget.widget.messages import (
    CardMessage,
    RunMessage,
    card_message,
    edited_message,
    floor_message,
    readout_message,
    run_message,
)
from lenswidget.widget.packing import label_to_list
from lenswidget.widget.requests import (
    AttentionRequest,
    DecodeRequest,
    FloorRequest,
    ReadRequest,
    RunRequest,
    SearchRequest,
    WhyRequest,
)
from lenswidget.widget.why import AttentionMessage, WhyMessage, attention_message, stored_whys, why

Slices = Generator[tuple[int, int], None, Any]
_QUERY_FIELDS = frozenset(field.name for field in fields(Query)) - {"run", "cells"}


class Session(KeptRuns, Choices):
    """An engine, its runs by id, and what can be chosen of its model.

    Args:
        engine: runs and reads.
        lens: the lens to begin with: a name, a lens or a function; None for the first that comes with the
            model, or the logit lens where none does.
        lenses: more to switch between: a sequence, or a mapping from name to lens. One with the name of a
            lens that comes with the model takes its place.
        strict: refuse a run whose decoded last row is not the model's own logits.

    Attributes:
        reuse: whether runs take over what they share with those that are kept.
    """

    def __init__(
        self,
        engine: Engine,
        lens: LensLike | str = None,
        lenses: Collection[Any] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        KeptRuns.__init__(self)
        Choices.__init__(self, engine.info(), lens, lenses, engine.lenses())
        self._engine = engine
        self._strict = strict
        self._spines: dict[str, Spine] = {}
        self.reuse = True
        for each in self.lenses.values():
            engine.check_lens(each)

    # --- runs

    @property
    def is_paired(self) -> bool:
        """Whether the grid is of two runs side by side."""
        return False

    @property
    def locks(self) -> tuple[ModelLock, ...]:
        """Held while this session runs and reads."""
        return (self._engine.lock,)

    @property
    def engine(self) -> Engine:
        """What runs and reads."""
        return self._engine

    def encode(self, prompt: Any, **options: Any) -> EncodedPrompt:
        """One prompt as the model takes it.

        Raises:
            PromptError: a prompt the model cannot take.
        """
        return self._engine.encode(prompt, **options)

    def execute(self, spec: RunSpec) -> Runs:
        """Run a recipe; and, where it has edits, the same without them, and with their controls.

        None of these runs is kept before it is shown.

        Raises:
            FidelityError: strict, and the last row is not the model's own logits.
        """
        if not spec.active_edits:
            return Runs(self._execute(spec))
        base, control = self._companions(spec)
        return Runs(self._execute(spec, base), base, control)

    def _companions(self, spec: RunSpec) -> tuple[Run, Run | None]:
        """The run without the edits of a recipe, and that with their controls if they have any."""
        edits = spec.active_edits
        base = self._unedited(spec) or self._execute(replace(spec, edits=()))
        if not any(edit.has_control for edit in edits):
            return base, None
        controls = tuple(edit.control() if edit.has_control else edit for edit in edits)
        return base, self._execute(replace(spec, edits=controls), base)

    def _unedited(self, spec: RunSpec) -> Run | None:
        """A kept run of the same prompt without edits, if the model is still what it was."""
        for run in self._runs.values():
            if run.spec.prompt is spec.prompt and not run.spec.active_edits and run.is_current:
                return run
        return None

    def _execute(self, spec: RunSpec, *bases: Run) -> Run:
        others = [*bases, *reversed(self._runs.values())]
        reuse = most_shared(others, spec, self._runs.get(self.shown)) if self.reuse else False
        return self.check_run(self._engine.run(spec, reuse=reuse))

    def take_engine(self, engine: Engine) -> None:
        """Run and read with another engine from now on: the next run is of its model."""
        self._engine = engine

    def check_run(self, run: Run) -> Run:
        if self._strict and not run.fidelity.ok:
            raise FidelityError(
                f"{run.fidelity.complaint(run.model.name)} Pass strict=False to see it all the same."
            )
        return run

    def extend(self, n_tokens: int, **sampling: Any) -> Generator[Run, None, Run]:
        """The run that is shown with one column more each time: see `readout.continuing.continued`.

        Raises:
            LensError: the engine cannot do that.
            FidelityError: strict, and the last row is not the model's own logits.
        """
        engine: Any = self._engine
        if not isinstance(engine, Continues):
            raise LensError(
                "Asked to generate, which this widget's engine cannot do. Use model.generate(...)."
            )
        run = self.run
        for run in engine.extend(self.run, n_tokens, **sampling):
            yield self.check_run(run)
        return run

    def compared(self, run: Run) -> Runs:
        """A run that was shown alone, with those that it is compared with: another run, for the page."""
        if not run.spec.active_edits:
            return Runs(run)
        reuse = replace(run.reuse, run_id=run.id, n_columns=run.seq)
        return Runs(replace(run, id=uuid.uuid4().hex, reuse=reuse), *self._companions(run.spec))

    def show(self, runs: Runs, instead_of: str = "") -> None:
        super().show(runs, instead_of)
        info = runs.run.model
        if info.d_vocab != self.info.d_vocab:
            self.labels = Labels(info.tokenizer, info.d_vocab)
        self.info = info

    @property
    def run(self) -> Run:
        """The run that is shown."""
        return self.run_of(self.shown)

    @property
    def n_columns(self) -> int:
        """How many columns the grid has."""
        return self.run.seq

    def respec(self, request: RunRequest) -> RunSpec:
        """The recipe that a page asks to run: a prompt or an earlier run's, with the edits that it names."""
        if request.again is not None:
            spec = self.spec_of(request.again)
            if request.fork is not None:
                position, token = request.fork
                self.check_ids([token])
                spec = forked(spec, position, token)
            edits = spec.edits
        else:
            assert request.prompt is not None
            spec, edits = RunSpec(self._encode_again(request.prompt)), self.spec.edits
        if request.edits is not None:
            edits = edits_of(request.edits, edits, self)
        return replace(spec, edits=edits)

    def _encode_again(self, prompt: Any) -> EncodedPrompt:
        """Another prompt with the options of the one that is shown; its pictures where they have a place."""
        options = dict(self.spec.prompt.options)
        try:
            return self.encode(prompt, **options)
        except PromptError:
            if options.pop("images", None) is None:
                raise
            with suppress(PromptError):
                return self.encode(prompt, **options)
            raise

    def engine_state(self) -> str:
        """Whether the model answers: "live"; of one in another process, also "connecting" or "lost"."""
        state = getattr(self._engine, "state", None)
        return "live" if state is None else state()

    @property
    def is_current(self) -> bool:
        """Whether the run that is shown is of the model as it is now."""
        return self.run.is_current

    def recipe_state(self) -> dict[str, Any]:
        """The recipe of the run that is shown, as JSON; with the prompt that patches are taken from.

        Raises:
            PromptError: an input that is no tensor.
            EditError: an edit along a lens that is not among these.
        """
        state = self.state_of(self.spec)
        if self.source:
            state["source"] = self.spec_of(self.source).prompt.to_state()
        return state

    def state_of(self, spec: RunSpec) -> dict[str, Any]:
        """A recipe as JSON: see `recipe_state`."""
        edits = edits_to_state(spec.edits, self.lenses)
        state = {**spec.prompt.to_state(), **({"edits": edits} if edits else {})}
        return state if spec.sampling is None else {**state, "sampling": vars(spec.sampling)}

    def run_of(self, run_id: str) -> Run:
        """A run that is kept; one whose states were let go is made again from its recipe.

        Raises:
            CellError: it is not kept.
        """
        spec = self.spec_of(run_id)
        if run_id not in self._runs:
            self._runs[run_id] = replace(self._execute(spec), id=run_id)
        return self._runs[run_id]

    def release(self) -> None:
        """Let the states of all runs go, and the model unless something else keeps it."""
        self._runs.clear()
        self.shown_runs = None
        self._engine.let_go()

    def describe(self) -> RunMessage:
        """The run that is shown, as the page takes it."""
        run = self.run
        runs = self.shown_runs
        if runs is None or runs.base is None:
            return self._message(run)
        effect, answer = effect_of(self._engine, run, runs.base, runs.control)
        ids = [None if each is None else each.id for each in (runs.base, runs.control)]
        edited = edited_message(self.labels, ids, prove(run, runs.base), effect)
        return run_message(run, self.labels, self._reports(self._engine), answer, edited)

    def _message(self, run: Run) -> RunMessage:
        """A run without edits."""
        return run_message(run, self.labels, self._reports(self._engine), self._answer_of(run))

    def _reports(self, engine: Engine) -> dict[str, LensReport | None]:
        """The lenses by name, and what was measured of each on an engine's model."""
        return {name: engine.report_of(lens) for name, lens in self.lenses.items()}

    def _answer_of(self, run: Run) -> Readout:
        """The model's own answer, as a readout of one cell."""
        return drain(self._engine.read_slices(Query(run, run.answer_cell)))

    # --- the run that patches are taken from

    def set_source(self, prompt: Any) -> RunMessage | None:
        """Run the prompt that patches are taken from, and keep it until another is set; None is none."""
        if prompt is None:
            self.source = ""
            return None
        spec = prompt if isinstance(prompt, RunSpec) else RunSpec(self._encode_again(prompt))
        run = self._execute(spec)
        self.keep(run)
        self.source = run.id
        return self._message(run)

    def growing_map(self, **asked: Any) -> Any:
        """A `GrowingMap` of patches from the source into the prompt that is shown, or of removals from it.

        Raises:
            EditError: it does not fit, or the engine makes no maps.
        """
        make = getattr(self._engine, "growing_map", None)
        if make is None:
            raise EditError(
                "Asked for a causal map, which this engine does not make. Use a model in this process."
            )
        if asked.get("ablate") is not None:
            source = None
        elif not self.source:
            raise EditError("A causal map needs the prompt that patches are taken from. Set w.source first.")
        else:
            source = self.spec_of(self.source).prompt
        return make(self.spec.prompt, source, **asked)

    # --- requests

    def answer(self, message: Mapping[str, Any]) -> Slices:
        """A request of the page that changes nothing, in slices; returns the reply's value.

        Raises:
            LensError: whatever is wrong with the request, or a kind that is not known.
        """
        match message.get("kind"):
            case "read":
                return (yield from self.read(ReadRequest.parse(message)))
            case "decode":
                return self.decode(DecodeRequest.parse(message))
            case "floor":
                return (yield from self.floor(FloorRequest.parse(message)))
            case "search":
                return self.search(SearchRequest.parse(message))
            case "code":
                return self.code(DecodeRequest.parse(message))
            case "why":
                return self.why(WhyRequest.parse(message))
            case "attention":
                return self.attention(AttentionRequest.parse(message))
            case "ping":
                return {}
            case kind:
                raise LensError(f"The page asked for {kind!r:.60}, which this kernel does not know.")

    def why(self, request: WhyRequest) -> WhyMessage:
        """What a cell's logit is made of; beside it what it was without the edits of its run."""
        run, runs = self.run_of(request.run_id), self.shown_runs
        is_shown = runs is not None and runs.run.id == run.id
        base = runs.base if runs is not None and is_shown else None
        return why(request, run, base, self.lens(request.lens), self.labels)

    def attention(self, request: AttentionRequest) -> AttentionMessage:
        """Where the attention of a cell looks."""
        return attention_message(attention(self.run_of(request.run_id), request.layer, request.position))

    def stored_whys(self, cell: DecodeRequest, pins: Sequence[int]) -> list[WhyMessage]:
        """What a file keeps of why a cell says what it says: of the pinned tokens, else of its best."""
        tokens = list(pins) or self.decode(cell)["ids"][:1]
        return stored_whys(self.why, cell, tokens) if tokens else []

    def readout(self, cells: Any, **options: Any) -> Readout:
        """`lenswidget.read` of the run that is shown; `lens` may be a name among the lenses."""
        asked = {name: options.pop(name) for name in _QUERY_FIELDS & options.keys()}
        if isinstance(asked.get("lens"), str):
            asked["lens"] = self.lens(asked["lens"])
        if asked.get("show") == "lift" and asked.get("background") is None:
            site = asked.get("site", EMBED_SITE)
            asked["background"] = drain(self.background(as_lens(asked.get("lens")), site))
        return self._engine.read(Query(self.run, cells, **asked), **options)

    def read(self, request: ReadRequest) -> Slices:
        """A rectangle of cells, in slices; returns it packed. Rows that the lens cannot carry are NaN."""
        run, lens = self.run_of(request.run_id), self.lens(request.lens)
        covered = covered_layers(lens, run.n_layers)
        beyond = [layer for layer in request.layers if not -1 <= layer < run.n_layers]
        places = [i for i, layer in enumerate(request.layers) if layer in covered or layer in beyond]
        background = None
        if request.show == "lift":
            background = yield from self.background(lens, request.site)
        query = Query(
            run,
            Cells.grid([request.layers[i] for i in places], request.positions),
            lens=lens,
            site=request.site,
            k=min(request.k, self.info.d_vocab),
            track=tuple(request.track),
            against=None if request.against is None else self.run_of(request.against),
            metrics=tuple(request.metrics),
            show=request.show,
            background=background,
        )
        readout = yield from self._engine.read_slices(query)
        return readout_message(readout, request, places, self.labels)

    def background(self, lens: Lens, site: str, *, lift: bool = True) -> Generator[Any, None, Background]:
        """What a lens usually says and what it says of nothing, in slices; fitted once."""
        engine: Any = self._engine
        if self.run.elsewhere is not None:
            return engine.background(lens, site, lift=lift)
        return background_slices(engine, self.run.tail.hf_model, lens, site, lift=lift)

    def has_background(self, lens: str, site: str) -> bool:
        """Whether what is usual through a lens is known, so that the lift can be read at once."""
        return known_background(self.background(self.lens(lens), site)) is not None

    def spine(self, run: Run) -> Generator[tuple[int, int], None, Spine]:
        """The surprise of a run's tokens, in slices; columns that were taken over have the earlier run's."""
        found = self._spines.get(run.id)
        if found is None:
            earlier = self._spines.get(run.reuse.run_id or "")
            found = yield from spine_slices(run, self._engine.read_slices, earlier, run.reuse.n_columns)
            kept = {run_id: each for run_id, each in self._spines.items() if run_id in self._specs}
            self._spines = {**kept, run.id: found}
        return found

    def n_without_spine(self, run: Run) -> int:
        """How many columns of a run `spine` would have to decode."""
        if run.id in self._spines:
            return 0
        return run.seq - (run.reuse.n_columns if run.reuse.run_id in self._spines else 0)

    def floor(self, request: FloorRequest) -> Slices:
        """What a cell of each layer must exceed to say more than noise, in slices."""
        self.check_known("site", request.site)
        self.check_show(request.show)
        lens = self.lens(request.lens)
        background = yield from self.background(lens, request.site, lift=request.show == "lift")
        return floor_message(background, request.show)

    def decode(self, request: DecodeRequest) -> CardMessage:
        """One cell decoded again, as a card message."""
        run, lens = self.run_of(request.run_id), self.lens(request.lens)
        # first, for the widget's name of the lens, which may not be the lens's own
        check_carried(lens, [request.layer], run.n_layers, request.lens)
        query = Query(
            run,
            [(request.layer, request.position)],
            lens=lens,
            site=request.site,
            k=min(request.k, self.info.d_vocab),
            track=tuple(request.track),
        )
        card = self._engine.decode(query, request.temperature)
        labels = self._labels_of(request.run_id)
        return {**card_message(card, labels), "lens": request.lens, "k": query.k}

    def _labels_of(self, run_id: str) -> Labels:
        """The labels of a run's own ids."""
        return self.labels

    def search(self, request: SearchRequest) -> dict[str, Any]:
        """Tokens like a text, best first."""
        ids = self.labels.search(request.text, request.k)
        return {"matches": [{"id": i, "label": label_to_list(self.labels[i])} for i in ids]}

    def code(self, request: DecodeRequest) -> dict[str, Any]:
        """The trace that reproduces a card."""
        lens, run = self.lens(request.lens), self.run_of(request.run_id)
        is_function, is_own = isinstance(lens, CallableLens), self._engine.lenses().get(request.lens) is lens
        n_tokens = run.n_tokens_shown(request.k)
        prompt = run.spec.prompt
        edits = edits_code(run.spec.edits, {} if is_function else {"lens": lens})
        more: dict[str, Any] = {"n_tokens": n_tokens, "edits": edits, "sampling": run.spec.sampling}
        lens_is = {"is_function": is_function, "is_own": is_own}
        return {"code": cell_code(prompt, request, run.model, **lens_is, **more)}

    # --- checks

    def check(self, layer: int, position: int, site: str, lens: str) -> None:
        """Raise a CellError unless the run that is shown has this cell, and the lens carries it."""
        run = self.run
        run.check(Cells([layer], [position]), site)
        check_carried(self.lens(lens), [layer], run.n_layers, lens)

    def layers(self, site: str, lens: str) -> list[int]:
        """The rows of a site's grid that a lens, given by name, can carry, lowest first."""
        return rows(self.run, site, self.lens(lens))
