"""The widget of a film: runs one after another on the same cells, and the states of the shown one alone."""

from collections.abc import Collection, Generator, Mapping
from typing import Any

import traitlets as t

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.errors import LensError, LensMismatchError
from lenswidget.interventions.recipe import RunSpec
from lenswidget.lenses.lens import LensLike
from lenswidget.readout.frames import (
    FramesLike,
    check_place,
    check_same_cells,
    engine_of_run,
    frames_of,
    shape_of,
)
from lenswidget.widget.kept_runs import Runs
from lenswidget.widget.requests import RunRequest
from lenswidget.widget.session import Session
from lenswidget.widget.view_traits import CHOICE, SHARED, as_state
from lenswidget.widget.widget import LensWidget

ONLY_FRAMES = (
    "A film shows the runs that it was given. To go on from one, open it alone: model.lens(run.spec)."
)


class FilmWidget(LensWidget):
    """Runs on the same cells, one at a time: `w.frame` says which, and the page scrubs through them.

    Only the run that is shown has its states in memory; the others are made when they are shown. All must
    have the rows, the columns and the vocabulary of the first.

    Args:
        frames, model: as for `lenswidget.film`.
        lens, lenses, strict, choices: as for `LensWidget`; `frame` is the place of the one to begin with. A
            frame of a model that the lens does not fit is read through the logit lens.
        state: `w.state` of an earlier one.
    Raises:
        LensError: no frames, what is none, or frames of other cells.
    """

    frames = t.List(t.Unicode(), read_only=True).tag(**SHARED)
    frame = t.Int(0, min=0).tag(**CHOICE)

    def __init__(
        self,
        frames: FramesLike,
        *,
        model: ReadableModel | None = None,
        lens: LensLike | str = None,
        lenses: Collection[Any] | None = None,
        strict: bool = True,
        state: Mapping[str, Any] | None = None,
        **choices: Any,
    ) -> None:
        begin = {**as_state(state), **choices}
        for name in ("recipe", "branches"):
            begin.pop(name, None)
        self._check_choices(begin)
        self._frames = frames_of(frames, model)
        self._place: int = begin.pop("frame", 0)
        check_place(self._place, self._frames)
        first = self._frames[self._place].make()
        self._shape = shape_of(first)
        session = Session(engine_of_run(first), lens, lenses, strict=strict)
        session.check_run(first)
        if lens is not None or "lens" not in begin:
            begin["lens"] = session.first_lens
        self._begin(session, Runs(first), begin, is_cell_given="selection" in choices)
        self.set_trait("frames", [frame.name for frame in self._frames])
        self.set_trait("frame", self._place)

    @t.validate("frame")
    def _validate_frame(self, proposal: Any) -> int:
        check_place(proposal["value"], self._frames)
        return proposal["value"]

    @t.observe("frame")
    def _on_frame(self, change: Any) -> None:
        """Show another run; where that fails, the frame is the one that is still shown."""
        if not getattr(self, "_session", None) or not self._session.shown or self._place == change["new"]:
            return
        try:
            self._show_frame(change["new"])
        except BaseException:
            self.set_trait("frame", self._place)
            raise

    def _show_frame(self, place: int) -> None:
        frame, session = self._frames[place], self._session
        run = frame.make()
        check_same_cells(frame.name, run, self._shape)
        session.check_run(run)
        before = session.shown
        session.take_engine(engine_of_run(run))
        self._latest, self._place = run.id, place
        with self.hold_sync():
            try:
                session.engine.check_lens(session.lens(self.lens))
            except LensMismatchError:
                self.set_trait("lens", "logit")
            self._show(Runs(run))
            session.drop(before)
            self.set_trait("frame", place)

    def _run_in_slices(self, request: RunRequest) -> Generator[tuple[int, int], None, dict[str, str]]:
        """The page asks for a frame."""
        if request.frame is None:
            raise LensError(ONLY_FRAMES)
        check_place(request.frame, self._frames)
        yield 0, 1
        if request.frame != self._place:
            self._show_frame(request.frame)
        return {"run_id": self._session.shown}

    def _execute(self, spec: RunSpec) -> Runs:
        raise LensError(ONLY_FRAMES)

    def _grow(self, n_tokens: int, **options: Any) -> Generator[tuple[int, int], None, None]:
        raise LensError(ONLY_FRAMES)


def film(frames: FramesLike, *, model: ReadableModel | None = None, **choices: Any) -> FilmWidget:
    """A widget that moves through runs on the same cells: checkpoints, strengths of an edit, passes.

    Args:
        frames: runs, recipes (`run.spec`) or functions that make a run when it is shown, in a list, an
            iterator, or a mapping from name to frame. No run is kept but the one that is shown: of one that
            is given, the recipe and the model are, and it is run again unless something else keeps it.
        model: runs the recipes that are given as such.
        choices: of `FilmWidget`.
    Raises:
        LensError: no frames, what is none, or frames of other cells.
    """
    return FilmWidget(frames, model=model, **choices)
