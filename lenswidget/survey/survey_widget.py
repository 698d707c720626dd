"""The picture of a survey above the live grid of one of its prompts."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import traitlets as t

from lenswidget.checks import is_integer
from lenswidget.errors import CellError, LensError
from lenswidget.survey.curves import CONTRASTS, curves_of
from lenswidget.survey.measured import METRICS, Measured
from lenswidget.survey.opener import Opener
from lenswidget.survey.picture import Picture, Surveyed, packed_curves
from lenswidget.tracing.locks import ModelLock
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.page_state import source_of
from lenswidget.widget.refusals import validates
from lenswidget.widget.session import Session
from lenswidget.widget.view_traits import CHOICE, SHARED
from lenswidget.widget.widget import LensWidget


@dataclass(frozen=True)
class OpenRequest:
    """The page asks for a column's prompt, of a strip, and maybe for a layer of it."""

    column: int
    strip: int
    layer: int | None = None

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> "OpenRequest":
        given: list[Any] = [message.get(name) for name in ("column", "strip", "layer")]
        column, strip, layer = given
        if not (is_integer(column) and is_integer(strip) and (layer is None or is_integer(layer))):
            raise CellError(f"The page asked to open {message!r:.120}. Send integers as column and strip.")
        return cls(int(column), int(strip), None if layer is None else int(layer))


class SurveyWidget(LensWidget):
    """Curves with bands, a thin column per prompt, and below the live grid of the prompt that was opened.

    All of `LensWidget` holds for that grid. `w.open_row(row)` opens a prompt as a click on its column does.

    Args:
        found: a survey, of `lenswidget.survey`.
        choices: any trait: `curve`, `only_right` and `contrast`, or those of `LensWidget`.
    Raises:
        LensError: no prompt has numbers, the survey's models are not at hand, or a choice that does not fit.
    """

    survey = t.Dict(read_only=True).tag(**SHARED)
    # by choices, `curve_key`: what the page has drawn so far
    curves = t.Dict(read_only=True).tag(**SHARED)
    opened = t.Dict(allow_none=True, default_value=None, read_only=True).tag(**SHARED)
    curve = t.Enum(METRICS, default_value="pass").tag(**CHOICE)
    only_right = t.Bool(False).tag(**CHOICE)
    contrast = t.Enum(CONTRASTS, allow_none=True, default_value=None).tag(**CHOICE)

    def __init__(self, found: Surveyed, **choices: Any) -> None:
        self._check_choices(choices)
        if found.opener is None:
            raise LensError(
                "Asked for the picture of a survey without its models. Survey again with out= the same file: "
                "nothing is run twice."
            )
        self._found, self._opener, self._picture = found, found.opener, Picture(found)
        if not self._picture.columns:
            raise LensError("Asked for the picture of a survey in which every prompt failed: see its errors.")
        self._sessions: dict[str, Session] = {}
        column, strip = self._picture.first()
        measured = self._measured(column, strip)
        session = self._session_of(measured.model)
        runs = session.execute(self._opener.spec(measured))
        begin = {"lens": session.first_lens, "site": found.site, **choices}
        self._next: dict[str, int] | None = {"column": column, "strip": strip}
        self._begin(session, runs, begin, is_cell_given="selection" in choices)
        try:
            self._add_curves()
        except BaseException:  # one that is refused is not left open
            self.close()
            raise
        with self.hold_sync():
            self.set_trait("survey", self._picture.packed())
            self._mark(measured)

    @property
    def _locks(self) -> tuple[ModelLock, ...]:
        """Those of all models: opening a prompt of another, the widget has that one's lock from the start."""
        opener: Opener | None = self.__dict__.get("_opener")
        of_models = () if opener is None else (engine.lock for engine in opener.engines.values())
        return tuple(dict.fromkeys([*super()._locks, *of_models]))

    def open_row(self, row: int, *, model: str | None = None, condition: str = "plain") -> None:
        """Show the live grid of a prompt.

        Args:
            row: its place among the survey's rows.
            model: one of several, by name; None is the first.
            condition: "plain", or "edited".
        Raises:
            LensError: no such prompt, or one that failed.
        """
        picture = self._picture
        name = picture.strips[0][0] if model is None else model
        if row not in picture.columns or (name, condition) not in picture.strips:
            raise LensError(
                f"Asked to open row {row!r:.40} of {name!r:.40}, {condition!r:.40}, which has no numbers. "
                "Choose one of survey.to_dataframe() without an error."
            )
        column, strip = picture.columns.index(row), picture.strips.index((name, condition))
        with self._whole():
            self._open(OpenRequest(column, strip), self._measured(column, strip))

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write one self-contained HTML file: the picture with all its curves, and the grid that is open."""
        for metric in self._picture.metrics():
            for only_right in (False, True):
                for contrast in (None, *self._survey_header()["contrasts"]):
                    self._add_curves((metric, only_right, contrast))
        return super().save(path, **options)

    def close(self) -> None:
        """Close the comm, and let the runs of every model go."""
        super().close()
        for session in self.__dict__.get("_sessions", {}).values():
            session.release()

    # --- the picture

    def _survey_header(self) -> dict[str, Any]:
        survey: Any = self.survey
        return survey["header"]

    @validates("curve", "contrast")
    def _validate_curve(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if self._session.shown and self.survey:
            has = self._survey_header()["metrics" if name == "curve" else "contrasts"]
            if value is not None and value not in has:
                raise LensError(f"Asked for {name}={value!r}; this survey has {', '.join(has) or 'none'}.")
        return value

    @t.observe("curve", "only_right", "contrast")
    def _on_curve(self, _change: Any) -> None:
        if self.survey:
            self._add_curves()

    def _add_curves(self, choice: Any = None) -> None:
        chosen: Any = choice or (self.curve, self.only_right, self.contrast)
        metric, only_right, contrast = chosen
        key = curve_key(metric, only_right, contrast)
        known: Any = self.curves
        if key not in known:
            found = curves_of(
                self._found.measured, metric, self._found.k, only_right=only_right, contrast=contrast
            )
            self.set_trait("curves", {**known, key: packed_curves(found)})

    # --- the grid

    def _session_of(self, model: str) -> Session:
        if model not in self._sessions:
            lens = self._opener.lenses[model]
            self._sessions[model] = Session(self._opener.engines[model], lens, strict=False)
        return self._sessions[model]

    def _measured(self, column: int, strip: int) -> Measured:
        found = self._picture.at(column, strip)
        if found is None:
            raise CellError(
                f"Asked to open column {column} of strip {strip}, which has no numbers. Choose another."
            )
        return found

    def _answer(self, message: dict[str, Any]) -> Generator[tuple[int, int], None, Any]:
        if message.get("kind") != "open":
            return (yield from super()._answer(message))
        request = OpenRequest.parse(message)
        self._open(request, self._measured(request.column, request.strip))
        return {"run_id": self._session.shown}

    def _open(self, request: OpenRequest, measured: Measured) -> None:
        before, session = self._session, self._session_of(measured.model)
        self._session = session
        try:
            runs = self._execute(self._opener.spec(measured))
        except BaseException:
            self._session = before
            raise
        with self.hold_sync():
            if session is not before:
                self.pins, self.rank_token, self.cards = [], None, []
                if self.lens not in session.lenses:
                    self.lens = session.first_lens
            self._next = {"column": request.column, "strip": request.strip}
            self._show(runs)
            self._mark(measured)
            if request.layer is not None and request.layer in session.layers(self.site, self.lens):
                self.selection = {"layer": request.layer, "position": runs.run.answer_position}

    def _show(self, runs: Runs) -> None:
        """A prompt that was typed is none of the survey's: then no column is the open one."""
        super()._show(runs)
        opened, self._next = self._next, None
        self.set_trait("opened", opened)

    def _mark(self, measured: Measured) -> None:
        """Pin the answer that the survey looked for, so that its line over the layers is drawn."""
        ids = list(self._opener.first_ids(measured))
        if ids:
            label = self._session.labels[ids[0]].text
            self.pins = [{"ids": ids, "label": label, "color": 0}]
            self.rank_token = ids[0]

    # of the bundle with the picture, which other widgets do not carry; read when a widget is made
    @property
    def _esm(self) -> Any:
        return source_of("survey.js")

    @property
    def _css(self) -> Any:
        return source_of("survey.css")


def curve_key(metric: str, only_right: bool, contrast: str | None) -> str:
    """The name of some curves among those that the page has."""
    return f"{metric} {'right' if only_right else 'all'} {contrast or 'none'}"
