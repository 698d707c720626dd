"""The widget: traits that Python and the page share, and the messages between them. No arithmetic here."""

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsIndex

import traitlets as t

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import is_text
from lenswidget.errors import Cancelled, EngineLostError, LensError, PromptError
from lenswidget.files import file_at, write_beside
from lenswidget.interventions.recipe import Edit, RunSpec, check_edits
from lenswidget.interventions.recipe_state import edits_of_state, sampling_of_state
from lenswidget.lenses.lens import LensLike
from lenswidget.models.encoded_prompt import prompt_of_state
from lenswidget.models.prompts import Prompt
from lenswidget.progress import drain
from lenswidget.readout.given_run import GivenRunEngine
from lenswidget.readout.local_engine import HasEngine, engine_of
from lenswidget.readout.query import CellsLike
from lenswidget.readout.readout import Readout
from lenswidget.readout.run import EMBED_SITE, Run
from lenswidget.widget import cell_outputs, csv_table, export, html_table
from lenswidget.widget.branches import Branch, Branches
from lenswidget.widget.engine_watch import IDLE, EngineWatch
from lenswidget.widget.growing import OTHER_SHOWN, GrowingWidget
from lenswidget.widget.host import takes_turns
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.messages import n_columns_at_first
from lenswidget.widget.packing import Packed
from lenswidget.widget.page_state import PageState, source_of
from lenswidget.widget.patch_traits import PatchTraits
from lenswidget.widget.requests import DecodeRequest, FloorRequest, GenerateRequest, ReadRequest, RunRequest
from lenswidget.widget.session import Session
from lenswidget.widget.spine_traits import SpineTraits
from lenswidget.widget.summary import one_line
from lenswidget.widget.tasks import Answer, Tasks, error_message
from lenswidget.widget.turns import interruptible
from lenswidget.widget.view_traits import SHARED, EditsTrait, PromptTrait, as_state

# of the event loop, for a cancel to be read and handled even behind a few other messages
TURNS_AFTER_A_RUN = 3
# How a prompt is encoded; see `encode_prompt`.
PROMPT_OPTIONS = frozenset(
    {"add_special_tokens", "decoder", "images", "add_generation_prompt", "enable_thinking"}
)


class LensWidget(GrowingWidget, SpineTraits, PatchTraits, EngineWatch, PageState):
    """What every layer would predict at every token, with each cell a click from its live decode.

    Args:
        model: a `LanguageModel`, or one of `lw.connect`; or a run alone, `Run.from_states(...)` say, to be
            shown as it is.
        prompt: text, ids, an encoding of one prompt, a chat, or the recipe of a run (`run.spec`). None with a
            `state` runs the recipe in it.
        lens: how mid-layer states are carried to the tail: a `Lens`, a callable, or the name of one that the
            switch offers ("logit"). None for the first that comes with the model (`model.lenses`), or the
            logit lens where none does.
        lenses: more lenses to switch between: a sequence, or a mapping from name to lens.
        edits: of the run; `w.edits` sets others, and `w.view` says whether the grid shows the run before
            them, after them, or the difference.
        strict: refuse a model whose decoded last row is not its own logits; False shows it with a red badge.
        state: `w.state` of an earlier widget, to begin with its choices; a selection beyond this prompt is
            left out.
        choices: any trait of the widget, `k=10` or `metric="entropy"` say; and options of the prompt:
            `add_special_tokens`, `decoder`, `add_generation_prompt`, `enable_thinking`.
    Raises:
        LensError: a prompt, model or choice that does not fit, in one sentence.
    """

    _esm = source_of("widget.js")
    _css = source_of("widget.css")

    run = t.Dict(read_only=True).tag(**SHARED)
    snapshot = t.Dict(read_only=True).tag(**SHARED)
    decoded = t.Dict(allow_none=True, default_value=None, read_only=True).tag(**SHARED)
    status = t.Dict(IDLE, read_only=True).tag(**SHARED)
    prompt = PromptTrait("").tag(**SHARED)
    edits = EditsTrait(())

    def __init__(
        self,
        model: ReadableModel | HasEngine | Run,
        prompt: Prompt | RunSpec | None = None,
        *,
        lens: LensLike | str = None,
        lenses: Collection[Any] | None = None,
        edits: Edit | Sequence[Edit] = (),
        strict: bool = True,
        state: Mapping[str, Any] | None = None,
        **choices: Any,
    ):
        begin = {**as_state(state), **choices}
        branches = begin.pop("branches", [])
        options = {name: begin.pop(name) for name in PROMPT_OPTIONS & begin.keys()}
        recipe = begin.pop("recipe", None)
        self._check_choices(begin)
        if isinstance(model, Run):
            prompt = model.spec if prompt is None else prompt
        engine = GivenRunEngine(model) if isinstance(model, Run) else engine_of(model)
        session = Session(engine, lens, lenses, strict=strict)
        tree = self._restored_branches(session, branches)
        if prompt is None and state is None:
            raise PromptError("No prompt was given. Write model.lens(prompt), or state= with w.state.")
        if prompt is None:
            prompt, options = prompt_of_state(recipe)
            edits = edits or edits_of_state(recipe, session.lens, session.encode)
        spec = _spec(session, prompt, options, check_edits(edits))
        runs = session.execute(replace(spec, sampling=spec.sampling or sampling_of_state(recipe)))
        if lens is not None or "lens" not in begin:
            begin["lens"] = session.first_lens
        self._begin(session, runs, begin, is_cell_given="selection" in choices, branches=tree)
        self._restore_source(recipe)

    def _begin(
        self,
        session: Session,
        runs: Runs,
        begin: dict[str, Any],
        *,
        is_cell_given: bool,
        branches: Branches | None = None,
    ) -> None:
        """Show the first runs, with the choices to begin with; a state's selection is kept if it fits."""
        self._session = session
        self._branches = branches or Branches()
        self._latest = runs.run.id  # of the runs, in whatever order they come to be shown
        self._tasks = Tasks(self._reply, self._progress, self._whole, lambda: takes_turns(self.comm))
        selection = begin.pop("selection", None)
        try:
            super().__init__(**begin)
            self._own_layout: Any = None if "layout" in begin else self.layout
            self._show(runs)
            if is_cell_given or self._has(selection):
                self.selection = selection
        except BaseException:  # one that is refused is not left open
            self.close()
            raise
        self.on_msg(self._receive)
        cell_outputs.watch(self)

    def _check_choices(self, begin: Mapping[str, Any]) -> None:
        if unknown := sorted(map(str, set(begin) - (set(self.trait_names()) - {"prompt"}))):
            known = ", ".join(self.trait_names(is_choice=True))
            raise LensError(f"The widget was given {', '.join(unknown)}, but what can be chosen is {known}.")

    # --- numbers, for Python

    def readout(self, cells: CellsLike | None = None, **options: Any) -> Readout:
        """The grid's numbers: every cell, or those given, with the widget's site, lens, show, k and pins.

        Args:
            cells: a `Cells`; None is all of them.
            options: of `lenswidget.readout.read`, in place of the widget's own choices.
        """
        return self._session.readout(cells, **{**self._reading, "show": self.show, **options})

    def to_dataframe(self, **options: Any) -> Any:
        """`readout().to_dataframe()`: a row per cell and top token."""
        return self.readout(**options).to_dataframe()

    def to_csv(self, path: str | Path, *, raw: bool = False, **options: Any) -> Path:
        """Write `to_dataframe()` as a CSV file; returns its path, absolute.

        Args:
            raw: leave tokens as they are. Else those that a spreadsheet would take for a formula (they begin
                with `= + - @`, a tab or a carriage return) have a `'` before them.
            options: of `readout`.
        """
        target = file_at(path)
        frame = self.to_dataframe(**options)
        with write_beside(target) as scratch:
            csv_table.write(frame, scratch, raw=raw)
        return target

    def track(self, token: str | SupportsIndex, *, label: str | None = None) -> Readout:
        """Pin a token and read it at every layer and position.

        Args:
            token: an id, or text that is exactly one token or one entry of the vocabulary.
            label: how the pin is called; the token's own text unless given.
        Returns:
            A readout whose `tracked_log_probs` and `tracked_ranks` are `[cells, 1]`.
        """
        token_id = self._session.token_id(token)
        if token_id not in self._reading["track"]:
            pins: list[dict[str, Any]] = self.pins
            taken = [pin["color"] for pin in pins]
            color = next(i for i in range(len(taken) + 1) if i not in taken)
            name = label or self._session.labels[token_id].text
            self.pins = [*pins, {"ids": [token_id], "label": name, "color": color}]
        return self.readout(track=(token_id,), k=1)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML file; see `lenswidget.widget.export.save`."""
        with self._turn():
            return export.save(self, path, **options)

    def packed_grid(
        self,
        *,
        k: int | None = None,
        metrics: tuple[str, ...] = ("entropy", "agrees"),
        newest: int | None = None,
        track: tuple[int, ...] = (),
        with_base: bool = False,
        show: str | None = None,
        run_id: str | None = None,
        progress: Any = None,
    ) -> Packed:
        """The grid as the page takes it, with the widget's site, lens and pins.

        Args:
            k: top tokens of each cell; None is the widget's.
            metrics: of `lenswidget.readout.read`.
            newest: only so many of the last positions.
            track: token ids to rank besides those that are pinned.
            with_base: with the same cells of the run without edits, where there are edits.
            show: which token stands in a cell; None is the widget's choice.
            run_id: of a kept run; None is the one that is shown.
            progress: called with `(done, total)` cells.
        """
        with self._turn():
            n_columns = self._session.n_columns if run_id is None else self._session.run_of(run_id).seq
            reading = self._reading
            reading["track"] = list(dict.fromkeys([*reading["track"], *track]))
            if k is not None:
                reading["k"] = k
            request = ReadRequest(
                run_id=run_id or self._session.shown,
                layers=self._session.layers(self.site, self.lens),
                positions=list(range(n_columns))[-(newest or n_columns) :],
                metrics=list(metrics),
                against=self._session.base_id if with_base else None,
                show=self.show if show is None else show,
                **reading,
            )
            with interruptible():
                return drain(self._session.read(request), progress)

    def packed_floor(self) -> dict[str, Any]:
        """What a cell of each layer must exceed to say more than noise, as the page takes it.

        No layers where no text can be given to the model, as to one without a tokenizer.
        """
        try:
            with self._turn(), interruptible():
                return drain(self._session.floor(FloorRequest(self.site, self.lens, self.show)))
        except PromptError:
            return {"layers": [], "values": []}

    def stored_whys(self) -> list[Any]:
        """What a file keeps of why the selected cell, and each card that is kept open, says what it says."""
        selection: Any = self.selection
        pins: list[Any] = self.pins
        cards: list[Any] = [*self.cards]
        if selection is not None:
            cards.insert(0, {**selection, "site": self.site, "lens": self.lens})
        asked = {tuple(card[name] for name in _CELL): None for card in cards if self._has(card)}
        return [
            why
            for cell in asked
            if cell[2] == EMBED_SITE
            for why in self._session.stored_whys(
                DecodeRequest(self._session.shown, *cell, k=1, track=[]), [pin["ids"][0] for pin in pins]
            )
        ]

    # --- runs

    def _run_prompt(self, prompt: Any) -> None:
        """Python set the prompt: run it now, so that one that fails leaves everything as it was.

        The edits stay, where they fit.
        """
        with self._whole():
            is_same = type(prompt) in (str, list) and prompt == self._session.spec.prompt.as_given
            self._end_comparison()
            if not (is_same and self._session.is_current):
                edits = () if isinstance(prompt, RunSpec) else self._session.spec.edits
                self._show(self._execute(_spec(self._session, prompt, {}, edits)))

    def _run_edits(self, edits: Any) -> None:
        """Python set the edits: run the same prompt with them now."""
        given = check_edits(edits)
        with self._whole():
            self._end_comparison()
            if given != self._session.spec.edits:
                self._show(self._execute(replace(self._session.spec, edits=given)))

    def _execute(self, spec: RunSpec) -> Runs:
        self.set_trait("status", {**IDLE, "state": "working", "text": "Running the model"})
        self._session.reuse = self.reuse
        try:
            with interruptible():
                runs = self._session.execute(spec)
        finally:
            self.set_trait("status", self._status_at_rest)
        self._latest = runs.run.id
        return runs

    def _note_run(self, run: Run) -> None:
        self._latest = run.id

    def _run_in_slices(self, request: RunRequest) -> Generator[tuple[int, int], None, dict[str, str]]:
        """Run what the page asks and show it, unless by then it was cancelled or another has been run."""
        if request.frame is not None:
            raise LensError(
                "The page asked for a frame of a widget that is no film. Show one: lw.film(runs)."
            )
        if request.beside is not None:
            self.compare_with(request.beside or None)
            return {"run_id": self._session.shown}
        if self._session_of_one is not None and request.again == self._session.shown:
            request = replace(request, again=self._session_of_one.shown)
        self._end_comparison()
        if request.show is not None:
            runs = self._runs_again(self._branch(request.show))
        else:
            runs = self._execute(self._session.respec(request))
        run = runs.run
        # nothing is heard during a forward: what came meanwhile is heard now, before the run is shown
        for _ in range(TURNS_AFTER_A_RUN):
            yield run.n_layers, run.n_layers
        if run.id != self._latest:
            raise Cancelled(OTHER_SHOWN)
        if request.fork is not None:
            source = Branch(request.again or "", self._session.spec_of(request.again or ""))
            self._branches.fork(source, Branch(run.id, run.spec))
        self._show(runs)
        return {"run_id": run.id}

    def _show(self, runs: Runs) -> None:
        """Make a run the one that is shown, here and on the page; interrupted, the one before stays."""
        with self._whole():
            self._check_reading()
            self._show_now(runs)

    def _show_now(self, runs: Runs) -> None:
        before = self._session.spec.prompt.bands if self._session.shown else None
        self._session.show(runs)
        # takes its time where there are edits: who reads meanwhile finds prompt, edits and run of before
        described = self._session.describe()
        with self.hold_sync():
            if before is not None:
                self._keep_folds(before, runs.run.spec.prompt.bands)
            self._keep_recipe(runs.run.spec)
            self._keep_map(runs.run.spec)
            self.set_trait("run", described)
            self._keep_spine(runs.run)
            self._keep_branches(runs.run)
            self._on_reading(None)

    def _show_step(self, run: Run, after: Run) -> None:
        is_step = after.spec.sampling is run.spec.sampling
        self._session.show(Runs(run), instead_of=after.id if is_step else "")
        with self.hold_sync():
            self._keep_recipe(run.spec)
            self.set_trait("run", self._session.describe())
            self._keep_spine(run)
            self._keep_branches(run)
            self.set_trait("snapshot", self.packed_grid(newest=1).trait)

    @t.observe("show")
    def _on_show(self, _change: Any) -> None:
        """The stored grid follows, so that a saved notebook has what is shown; the page reads for itself."""
        if self._session.shown:
            self.set_trait("snapshot", self._snapshot())
            self._keep_source_snapshot()

    @t.observe("site", "lens", "k")
    def _on_reading(self, change: Any) -> None:
        """Another run, or another way to read it: the snapshot and the card follow."""
        if not self._session.shown:
            return
        with self.hold_sync():
            self.set_trait("snapshot", self._snapshot())
            if change is not None:
                self._keep_source_snapshot()
            cell: Any = self.selection
            if cell is not None and self._has(cell):
                self._decode(**cell)
            else:
                self.selection = None

    def _snapshot(self, run_id: str | None = None) -> dict[str, Any]:
        """The whole grid where it is small; else as many of the newest columns as fit.

        Args:
            run_id: of a kept run; None is the one that is shown.
        """
        n_rows = len(self._session.layers(self.site, self.lens))
        n_tracked = len(self._reading["track"])
        # what is usual takes seconds to find out: the page's own requests do that, in slices
        is_known = self.show != "lift" or self._session.has_background(self.lens, self.site)
        show = self.show if is_known else "top"
        if self._session.is_paired:  # both sides, so that the difference is there at first too
            newest = n_columns_at_first(n_rows, 2 * self.k, 2 * n_tracked)
            return self.packed_grid(newest=newest, with_base=True, show="top").trait
        newest = n_columns_at_first(n_rows, self.k, n_tracked)
        return self.packed_grid(newest=newest, show=show, run_id=run_id).trait

    # --- the selected cell's card

    @t.observe("selection")
    def _on_selection(self, _change: Any) -> None:
        cell: Any = self.selection
        if cell is None:
            self.set_trait("decoded", None)
        elif not self._is_decoded(cell):
            self._decode(**cell)

    @t.observe("card_k")
    def _on_card_k(self, _change: Any) -> None:
        card: Any = self.decoded
        if card is not None and card["k"] != min(self.card_k, self._session.info.d_vocab):
            as_it_is = {name: card[name] for name in ("layer", "position", "site", "lens", "temperature")}
            self._decode(**as_it_is, track=[token["id"] for token in card["tracked"]])

    def _is_decoded(self, cell: Mapping[str, int]) -> bool:
        card: Any = self.decoded
        if card is None or card["run_id"] not in self._session.together:
            return False
        return all(card[name] == cell[name] for name in ("layer", "position"))

    def _decode(self, **asked: Any) -> None:
        """Decode the selected cell; what is not asked is as the grid is read."""
        request: dict[str, Any] = {**self._reading, "k": self.card_k, **asked}
        self.set_trait("decoded", self._session.decode(DecodeRequest(self._session.shown, **request)))

    # --- messages of the page

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        request_id = message.get("id") if isinstance(message, dict) else None
        try:
            if not isinstance(request_id, str) or not is_text(request_id):
                given, request_id = request_id, None
                raise LensError(f"The page sent a request with the id {given!r:.40}. Send text there.")
            if message.get("kind") == "cancel":
                self._cancel(message.get("target"))
                self._reply(request_id, value={})
            else:
                self._tasks.start(request_id, self._answer(message))
        except LensError as error:
            self._reply(request_id, error=error_message(error))
        except KeyboardInterrupt as error:  # outside of a slice, whose interrupts are its reply
            if isinstance(request_id, str) and self._tasks.give_up(request_id):
                self._reply(request_id, error=error_message(error))

    def _cancel(self, target: Any) -> None:
        if not isinstance(target, str):
            raise LensError(f"The page asked to cancel {target!r:.40}. Send the id of a request.")
        self._tasks.cancel(target)

    def _answer(self, message: dict[str, Any]) -> Generator[tuple[int, int], None, Any]:
        """One request's work, in slices; returns the reply's value. What changes a trait is done here."""
        match message.get("kind"):
            case "run":
                return (yield from self._run_in_slices(RunRequest.parse(message)))
            case "generate":
                return (yield from self._generate_in_slices(GenerateRequest.parse(message)))
            case "spine":
                return (yield from self._spine_in_slices())
            case "source" | "map":
                return (yield from self._answer_patching(message))
            case "decode" if message.get("select", True):
                card = self._session.decode(DecodeRequest.parse(message))
                return Answer(card, then=lambda: self._select(card))
            case _:
                return (yield from self._session.answer(message))

    def _select(self, card: Any) -> None:
        """Python, other views and the saved notebook have the page's card too, in one message."""
        if card["run_id"] not in self._session.together:
            return
        with self._whole(), self.hold_sync():
            self.set_trait("decoded", card)
            self.selection = {"layer": card["layer"], "position": card["position"]}

    def _reply(self, request_id: Any, *, value: Any = None, error: Any = None) -> None:
        if isinstance(value, Packed):
            self.send({"id": request_id, "value": value.header}, buffers=value.buffers)
        else:
            self.send({"id": request_id, **({"error": error} if error else {"value": value})})
        if error and error["type"] == EngineLostError.__name__:
            self._on_engine_lost()

    def _progress(self, request_id: Any, done: int, total: int) -> None:
        self.send({"kind": "progress", "id": request_id, "done": done, "total": total})

    # --- its life

    def close(self) -> None:
        """Close the comm and let the run's states and the model go.

        Python may still ask while something else keeps the model; it then runs again.
        """
        if "_session" not in self.__dict__:  # a widget that was refused is closed when it is collected
            return
        super().close()
        own_layout = getattr(self, "_own_layout", None)
        if own_layout is not None:  # a widget of its own, with a comm of its own
            own_layout.close()
        self._latest = ""
        for session in (self._session, self._session_of_one):
            if session is not None:
                session.release()

    def __repr__(self) -> str:
        run: Any = getattr(self, "run", None)
        return f"<{type(self).__name__} {one_line(run)}>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        cell_outputs.note(self)
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        return {**data, "text/html": html_table.table(self.run, self.snapshot)}, metadata


_CELL = ("layer", "position", "site", "lens")


def _spec(session: Session, prompt: Any, options: dict[str, Any], edits: tuple[Edit, ...]) -> RunSpec:
    """A recipe, with edits in place of its own if there are any; or the recipe of a prompt with edits."""
    if isinstance(prompt, RunSpec):
        return replace(prompt, edits=edits or prompt.edits)
    return RunSpec(session.encode(prompt, **options), edits=edits)
