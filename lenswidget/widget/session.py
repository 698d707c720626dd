"""What a widget's requests are answered from: a model, its lenses, its labels and the run on show."""

import weakref
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from lenswidget.anatomy.protocol import ReadableModel, check_is_model
from lenswidget.checks import check_ids
from lenswidget.errors import CellError, FidelityError, LensError, PromptError
from lenswidget.lenses.lens import (
    CallableLens,
    as_lens,
    check_carried,
    check_lens,
    covered_layers,
    lenses_by_name,
)
from lenswidget.progress import drain
from lenswidget.readout.card import decode
from lenswidget.readout.cells import Cells
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.query import rows
from lenswidget.readout.readout import Readout
from lenswidget.widget.card_code import cell_code, load_code
from lenswidget.widget.labels import Labels
from lenswidget.widget.messages import as_asked, card_message, readout_message, run_message
from lenswidget.widget.packing import label_to_list
from lenswidget.widget.requests import DecodeRequest, ReadRequest

Slices = Generator[tuple[int, int], None, Any]


class Session:
    """A model and the run on show.

    Args:
        model: a `LanguageModel`.
        lens: the lens to begin with: None, a name among `lenses`, a lens or a function.
        lenses: more to switch between: a sequence, or a mapping from name to lens.
        strict: refuse a run whose decoded last row is not the model's own logits.

    Attributes:
        lenses: by name.
        first_lens: the name of the lens to begin with.
        sites: what can be read of each layer.
    """

    def __init__(self, model: ReadableModel, lens: Any = None, lenses: Any = None, *, strict: bool = True):
        check_is_model(model, "The widget")
        self._run: Any = None
        self._prompt: Any = None
        self.labels = Labels(model.tokenizer, model.anatomy.d_vocab)
        self.sites: tuple[str, ...] = model.layers.offered
        self.lenses, self.first_lens = _named(lens, lenses)
        for each in self.lenses.values():
            check_lens(each, model)
        # let go by `release`, and the model with it: IPython's Out keeps every widget that a cell ever showed
        self._kept_engine: LocalEngine | None = LocalEngine(model)
        self._model = weakref.ref(model)
        self._strict = strict

    @property
    def model(self) -> ReadableModel:
        """The model; after a `release`, as long as somebody else keeps it.

        Raises:
            LensError: nobody does.
        """
        model = self._model()
        if model is None:
            raise LensError("This widget was closed and its model is gone. Show another: model.lens(prompt).")
        return model

    @property
    def _engine(self) -> LocalEngine:
        if self._kept_engine is None:
            self._kept_engine = LocalEngine(self.model)
        return self._kept_engine

    def execute(self, prompt: Any) -> Any:
        """Run the model; the run on show stays until `run` is set.

        Raises:
            PromptError: a prompt the model cannot take.
            FidelityError: strict, and the last row is not the model's own logits.
        """
        run = self._engine.run(prompt)
        if self._strict and not run.fidelity.ok:
            raise FidelityError(
                f"{run.fidelity.complaint(run.model['name'])} Pass strict=False to see it all the same."
            )
        return run

    @property
    def is_shown(self) -> bool:
        """Whether a run has been put on show."""
        return self._prompt is not None

    @property
    def run(self) -> Any:
        """The run on show; one that was let go is made again."""
        if self._run is None:
            self._run = self.execute(self._prompt)
        return self._run

    def show(self, run: Any) -> None:
        """Put a run on show."""
        self._run, self._prompt = run, run.prompt

    def release(self) -> None:
        """Let the states of the run on show go, and the model unless somebody else keeps it."""
        self._run = self._kept_engine = None

    def describe(self) -> dict[str, Any]:
        """The run on show, as the page takes it."""
        run = self.run
        last = Cells([run.n_layers - 1], [run.seq - 1])
        answer = drain(self._engine.read_slices(run, last))
        return run_message(run, self.labels, tuple(self.lenses), answer)

    def layers(self, site: str, lens: str) -> list[int]:
        """The rows of a site's grid that a lens, given by name, can carry, lowest first."""
        return rows(self.run, site, self.lens(lens))

    def readout(self, cells: Any, *, site: str, lens: str, **options: Any) -> Readout:
        """`read` on the run on show; `cells` None is the whole grid of the site."""
        return self._engine.read(self.run, cells, site=site, lens=self.lens(lens), **options)

    def read(self, request: ReadRequest) -> Slices:
        """A rectangle of cells, in slices; returns it packed. Rows that the lens cannot carry are NaN."""
        run = self._current(request.run_id)
        covered = covered_layers(self.lens(request.lens), run.n_layers)
        beyond = [layer for layer in request.layers if not -1 <= layer < run.n_layers]
        places = [i for i, layer in enumerate(request.layers) if layer in covered or layer in beyond]
        readout = yield from self._engine.read_slices(
            run,
            Cells.grid([request.layers[i] for i in places], request.positions),
            lens=self.lens(request.lens),
            site=request.site,
            k=min(request.k, self.labels.d_vocab),
            track=tuple(request.track),
            metrics=tuple(request.metrics),
        )
        return readout_message(readout, request, places, self.labels)

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
            case "search":
                return self.search(str(message.get("text", "")), int(message.get("k", 20)))
            case "code":
                return self.code(DecodeRequest.parse({**message, "run_id": self.run.id}))
            case "ping":
                return {}
            case kind:
                raise LensError(f"The page asked for {kind!r}, which this kernel does not know.")

    def check(self, layer: int, position: int, site: str, lens: str) -> None:
        """Raise a CellError unless the run on show has this cell, and the lens carries it."""
        run = self.run
        run.check(Cells([layer], [position]), site)
        check_carried(self.lens(lens), [layer], run.n_layers, lens)

    def decode(self, request: DecodeRequest) -> dict[str, Any]:
        """One cell decoded again, as a card message."""
        # first, for the widget's name of the lens, which may not be the lens's own
        self.check(request.layer, request.position, request.site, request.lens)
        card = decode(
            self._current(request.run_id),
            request.layer,
            request.position,
            lens=self.lens(request.lens),
            site=request.site,
            k=min(request.k, self.labels.d_vocab),
            temperature=request.temperature,
            track=tuple(request.track),
        )
        return {**card_message(card, self.labels), "lens": request.lens}

    def search(self, text: str, k: int) -> dict[str, Any]:
        """Tokens like `text`, best first."""
        ids = self.labels.search(text, k)
        return {"matches": [{"id": i, "label": label_to_list(self.labels[i])} for i in ids]}

    def code(self, request: DecodeRequest) -> dict[str, Any]:
        """The trace that reproduces a card."""
        is_function = isinstance(self.lens(request.lens), CallableLens)
        code = cell_code(
            as_asked(self.run),
            request,
            load=load_code(self.model),
            dtype=self.run.model["dtype"],
            is_function=is_function,
        )
        return {"code": code}

    def lens(self, name: str) -> Any:
        """The lens of that name."""
        self.check_known("lens", name)
        return self.lenses[name]

    def check_known(self, kind: str, name: str) -> None:
        """Raise a LensError unless there is a site, or a lens, of that name."""
        known = self.lenses if kind == "lens" else self.sites
        if name not in known:
            raise LensError(f"No {kind} is called {name!r} here: name one of {', '.join(known)}.")

    def check_ids(self, ids: Sequence[Any]) -> None:
        """Raise a CellError unless all are ids of the vocabulary."""
        check_ids(ids, self.labels.d_vocab)

    def token_id(self, token: Any) -> int:
        """The id of a token given as id or as text that is exactly one token.

        Raises:
            CellError: it is no id of the vocabulary, or not one token.
            PromptError: it is text, and the model has no tokenizer.
        """
        if not isinstance(token, str):
            self.check_ids([token])
            return int(token)
        if self.model.tokenizer is None:
            raise PromptError(f"{token!r} is text, but this model has no tokenizer. Give a token id.")
        ids: Sequence[int] = self.model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(repr(self.labels[i].text) for i in ids) or "none"
            raise CellError(f"{token!r} is {len(ids)} tokens ({pieces}). Give one of them, or an id.")
        return ids[0]

    def _current(self, run_id: str) -> Any:
        if run_id != self.run.id:
            raise CellError(
                "The page asked about an earlier run, but another is shown now: ask about that one."
            )
        return self.run


def _named(lens: Any, lenses: Any) -> tuple[dict[str, Any], str]:
    """The lenses to switch between, by name, and the name of the one to begin with."""
    named = lenses_by_name(lenses)
    if lens is None:
        return named, "logit"
    if isinstance(lens, str) and lens in named:
        return named, lens
    chosen = as_lens(lens)
    return {chosen.name: chosen, **named}, chosen.name
