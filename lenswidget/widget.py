"""The widget: traits that Python and the page share, and the messages between them. No arithmetic here."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from lenswidget import snippets
from lenswidget.card import check_cell, decode, lowest_row
from lenswidget.engine import LocalEngine
from lenswidget.errors import CellError, FidelityError, LensError, PromptError
from lenswidget.lenses import as_lens
from lenswidget.messages import card_message, readout_message, run_message
from lenswidget.readout import Cells, Readout
from lenswidget.tasks import Tasks, drain
from lenswidget.tokens import Labels
from lenswidget.wire import DecodeRequest, Packed, ReadRequest, label_to_list

STATIC = Path(__file__).parent / "static"
# VS Code moves about 1 MB a second between kernel and page, so what comes first must be small
SNAPSHOT_BYTES = 50_000
METRICS = ("prob", "log_prob", "entropy", "kl", "rank", "agrees")
CHOICES = (
    "selection",
    "metric",
    "k",
    "card_k",
    "site",
    "lens",
    "stride",
    "orientation",
    "hide_special",
    "column_width_px",
    "pins",
    "cards",
    "trajectory",
    "rank_token",
)


class LensWidget(anywidget.AnyWidget):
    """What every layer would predict at every token, with each cell a click from its live decode.

    Args:
        model: a `LanguageModel`.
        prompt: text, ids, or an encoding of one prompt.
        lens: how mid-layer states are carried to the tail: None (logit lens), a `Lens`, or a callable.
        lenses: more lenses to switch between, by name or each with a `name`.
        strict: refuse a model whose decoded last row is not its own logits; False shows it with a red badge.
        state: `w.state` of an earlier widget, to begin with its choices.
        choices: any trait of the widget, `k=10` or `metric="entropy"` say.
    Raises:
        LensError: a prompt, model or choice that does not fit, in one sentence.
    """

    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"

    run = t.Dict(read_only=True).tag(sync=True)
    snapshot = t.Dict(read_only=True).tag(sync=True)
    decoded = t.Dict(allow_none=True, default_value=None, read_only=True).tag(sync=True)
    status = t.Dict({"state": "idle", "text": "", "done": 0, "total": 0}, read_only=True).tag(sync=True)

    prompt = t.Union([t.Unicode(), t.List(t.Int())]).tag(sync=True)
    selection = t.Dict(allow_none=True, default_value=None).tag(sync=True)
    metric = t.Enum(METRICS, default_value="prob").tag(sync=True)
    k = t.Int(5, min=1, max=100).tag(sync=True)
    card_k = t.Int(20, min=1, max=1000).tag(sync=True)
    site = t.Unicode("resid_post").tag(sync=True)
    lens = t.Unicode("logit").tag(sync=True)
    stride = t.Int(1, min=1).tag(sync=True)
    orientation = t.Enum(("layers", "tokens"), default_value="layers").tag(sync=True)
    hide_special = t.Bool(False).tag(sync=True)
    column_width_px = t.Int(72, min=24, max=400).tag(sync=True)
    pins = t.List(t.Dict()).tag(sync=True)
    cards = t.List(t.Dict()).tag(sync=True)
    trajectory = t.Dict({"metric": "prob", "positions": []}).tag(sync=True)
    rank_token = t.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        model: Any,
        prompt: Any,
        *,
        lens: Any = None,
        lenses: Sequence[Any] = (),
        strict: bool = True,
        state: dict[str, Any] | None = None,
        **choices: Any,
    ):
        self._model = model
        self._engine = LocalEngine(model)
        self._strict = strict
        self._tasks = Tasks(self._reply, self._progress)
        chosen = as_lens(lens)
        self._lenses = {each.name: each for each in (chosen, *map(as_lens, lenses), as_lens(None))}
        self._labels = Labels(model.tokenizer, model.anatomy.d_vocab)
        self._run: Any = None
        self._next_run = self._execute(prompt)
        shown = {**(state or {}), "lens": chosen.name, **choices}
        selection = shown.pop("selection", None)
        super().__init__(prompt=as_trait(prompt, self._next_run), **shown)
        self._publish()
        self.selection = selection
        self.on_msg(self._receive)

    # what Python asks

    @property
    def state(self) -> dict[str, Any]:
        """The choices made in this widget; pass it on as `state=` to begin another where this one stands."""
        return {name: getattr(self, name) for name in CHOICES}

    def readout(self, cells: Any = None, **options: Any) -> Readout:
        """The grid's numbers: every cell, or those given, with the widget's site, lens, k and pins.

        Args:
            cells: a `Cells`; None is all of them.
            options: of `lenswidget.readout.read`, in place of the widget's own choices.
        """
        cells = self._all_cells() if cells is None else cells
        track = tuple(dict.fromkeys(i for pin in self.pins for i in pin["ids"]))
        asked = {"lens": self._lenses[self.lens], "site": self.site, "k": self.k, "track": track, **options}
        return self._engine.read(self._run, cells, **asked)

    def to_dataframe(self, **options: Any) -> Any:
        """`readout().to_dataframe()`: a row per cell and top token."""
        return self.readout(**options).to_dataframe()

    def track(self, token: str | int, *, label: str | None = None) -> Readout:
        """Pin a token and read it at every layer and position.

        Args:
            token: an id, or text that is exactly one token.
            label: how the pin is called; the token's own text unless given.
        Returns:
            A readout whose `tracked_log_probs` and `tracked_ranks` are `[cells, 1]`.
        """
        token_id = self._token_id(token)
        if all(token_id not in pin["ids"] for pin in self.pins):
            pin = {
                "ids": [token_id],
                "label": label or self._labels[token_id].text,
                "color": self._free_color(),
            }
            self.pins = [*self.pins, pin]
        return self.readout(track=(token_id,), k=1)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML file; see `lenswidget.export.save`."""
        from lenswidget.export import save

        return save(self, path, **options)

    def to_csv(self, path: str | Path, **options: Any) -> Path:
        """Write `to_dataframe()` as a CSV file; returns its path."""
        path = Path(path)
        self.to_dataframe(**options).to_csv(path, index=False)
        return path

    # the run

    def _execute(self, prompt: Any) -> Any:
        run = self._engine.run(prompt)
        if self._strict and not run.fidelity.ok:
            raise FidelityError(
                f"The last row does not reproduce {run.model['name']}'s own logits: {run.fidelity.text}. "
                "Pass strict=False to see it all the same."
            )
        return run

    @t.validate("prompt")
    def _validate_prompt(self, proposal: Any) -> Any:
        # run before the trait changes, so that a prompt that fails leaves everything as it was
        prompt = proposal["value"]
        if self._next_run is None:
            self._set_status("working", "Running the model")
            try:
                self._next_run = self._execute(prompt)
            finally:
                self._set_status("idle")
        return prompt

    @t.observe("prompt")
    def _on_prompt(self, _change: Any) -> None:
        if self._run is not None:
            self._publish()

    def _publish(self) -> None:
        """Show the run that `prompt` made."""
        self._run, self._next_run = self._next_run, None
        with self.hold_sync():
            self.set_trait("run", run_message(self._run, self._labels, tuple(self._lenses)))
            self.set_trait("snapshot", self._snapshot())
            selection, self.selection = self.selection, None
            if selection is not None and selection["position"] < self._run.seq:
                self.selection = selection

    def _all_cells(self) -> Cells:
        layers = range(lowest_row(self.site), self._run.n_layers)
        return Cells.grid(list(layers), list(range(self._run.seq)))

    def _snapshot(self) -> dict[str, Any]:
        """The whole grid where it is small; else as many of the newest columns as fit."""
        layers = list(range(lowest_row(self.site), self._run.n_layers))
        per_cell = 8 * self.k + 16 + 12 * min(self.k, 2)
        n_cells = max(1, SNAPSHOT_BYTES // per_cell)
        columns = min(self._run.seq, max(1, n_cells // len(layers)))
        positions = list(range(self._run.seq - columns, self._run.seq))
        request = ReadRequest(
            self._run.id,
            layers[-n_cells:],
            positions,
            self.site,
            self.lens,
            self.k,
            [],
            ["entropy", "agrees"],
        )
        packed = drain(self._pack_slices(request))
        return {"header": packed.header, "buffers": packed.buffers}

    # one cell

    @t.validate("selection")
    def _validate_selection(self, proposal: Any) -> Any:
        cell = proposal["value"]
        if cell is not None:
            try:
                layer, position = int(cell["layer"]), int(cell["position"])
            except (KeyError, TypeError, ValueError):
                raise CellError(
                    f'The selection is {cell!r}. It must be {{"layer": i, "position": j}} or None.'
                ) from None
            check_cell(self._run, layer, position, self.site)
            cell = {"layer": layer, "position": position}
        return cell

    @t.observe("selection")
    def _on_selection(self, _change: Any) -> None:
        cell = self.selection
        if cell is None:
            self.set_trait("decoded", None)
        elif self.decoded is None or any(self.decoded[name] != cell[name] for name in cell):
            card = decode(
                self._run,
                **cell,
                lens=self._lenses[self.lens],
                site=self.site,
                k=min(self.card_k, self._labels.d_vocab),
                track=tuple(dict.fromkeys(i for pin in self.pins for i in pin["ids"])),
            )
            self.set_trait("decoded", card_message(card, self._labels))

    # messages

    def _receive(self, _widget: Any, message: dict[str, Any], _buffers: Any) -> None:
        handlers = {
            "ping": self._on_ping,
            "run": self._on_run,
            "read": self._on_read,
            "decode": self._on_decode,
            "search": self._on_search,
            "code": self._on_code,
        }
        kind = message.get("kind")
        if kind == "cancel":
            self._tasks.cancel(message.get("target"))
            self._reply(message.get("id"), value={})
        elif kind in handlers:
            self._tasks.start(message.get("id"), handlers[kind](message))
        else:
            error = {
                "type": "LensError",
                "message": f"The page asked for {kind!r}, which the kernel does not know.",
            }
            self._reply(message.get("id"), error=error)

    def _reply(self, request_id: Any, *, value: Any = None, error: Any = None) -> None:
        buffers = None
        if isinstance(value, Packed):
            value, buffers = value.header, value.buffers
        self.send({"id": request_id, **({"error": error} if error else {"value": value})}, buffers=buffers)

    def _progress(self, request_id: Any, done: int, total: int) -> None:
        self.send({"kind": "progress", "id": request_id, "done": done, "total": total})

    def _on_ping(self, _message: Any) -> Generator[tuple[int, int], None, dict[str, Any]]:
        yield from ()
        return {}

    def _on_run(self, message: Any) -> Generator[tuple[int, int], None, dict[str, Any]]:
        yield from ()
        self.prompt = message["prompt"]
        return {"run_id": self._run.id}

    def _on_read(self, message: Any) -> Generator[tuple[int, int], None, Packed]:
        request = ReadRequest.parse(message)
        self._check_current(request.run_id)
        return (yield from self._pack_slices(request))

    def _on_decode(self, message: Any) -> Generator[tuple[int, int], None, dict[str, Any]]:
        yield from ()
        request = DecodeRequest.parse(message)
        self._check_current(request.run_id)
        decoded = decode(
            self._run,
            request.layer,
            request.position,
            lens=self._lens(request.lens),
            site=request.site,
            k=min(request.k, self._labels.d_vocab),
            temperature=request.temperature,
            track=tuple(request.track),
        )
        card = card_message(decoded, self._labels)
        if message.get("select", True):
            with self.hold_sync():
                self.set_trait("decoded", card)
                self.selection = {"layer": request.layer, "position": request.position}
        return card

    def _on_search(self, message: Any) -> Generator[tuple[int, int], None, dict[str, Any]]:
        yield from ()
        ids = self._labels.search(message["text"], message.get("k", 20))
        return {"matches": [{"id": i, "label": label_to_list(self._labels[i])} for i in ids]}

    def _on_code(self, message: Any) -> Generator[tuple[int, int], None, dict[str, Any]]:
        yield from ()
        asked = {name: message[name] for name in ("layer", "position", "site", "lens", "k", "temperature")}
        return {"code": snippets.cell_code(self.prompt, load=snippets.load_code(self._model), **asked)}

    def _pack_slices(self, request: ReadRequest) -> Generator[tuple[int, int], None, Packed]:
        cells = Cells.grid(request.layers, request.positions)
        slices = self._engine.read_slices(
            self._run,
            cells,
            lens=self._lens(request.lens),
            site=request.site,
            k=request.k,
            track=tuple(request.track),
            metrics=tuple(request.metrics),
        )
        readout = yield from slices
        return readout_message(readout, request, self._labels)

    # small things

    def _check_current(self, run_id: str) -> None:
        if run_id != self._run.id:
            raise CellError(
                "The page asked about an earlier run of this widget; it has been run again since."
            )

    def _lens(self, name: str) -> Any:
        if name not in self._lenses:
            raise LensError(f"No lens is called {name!r} here; this widget has {', '.join(self._lenses)}.")
        return self._lenses[name]

    def _token_id(self, token: str | int) -> int:
        if isinstance(token, int):
            if not 0 <= token < self._labels.d_vocab:
                raise CellError(f"Token {token} is outside the vocabulary of {self._labels.d_vocab} ids.")
            return token
        if self._model.tokenizer is None:
            raise PromptError(f"{token!r} is text, but this model has no tokenizer: give a token id.")
        ids = self._model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(repr(self._labels[i].text) for i in ids) or "nothing"
            raise CellError(
                f"{token!r} is {len(ids)} tokens ({pieces}), not one: give one of them, or an id."
            )
        return ids[0]

    def _free_color(self) -> int:
        taken = {pin["color"] for pin in self.pins}
        return next(color for color in range(len(taken) + 1) if color not in taken)

    def _set_status(self, state: str, text: str = "", done: int = 0, total: int = 0) -> None:
        self.set_trait("status", {"state": state, "text": text, "done": done, "total": total})


def as_trait(prompt: Any, run: Any) -> str | list[int]:
    """The prompt as the page can hold it: the text, or the ids that were run."""
    return prompt if isinstance(prompt, str) else run.token_ids.tolist()
