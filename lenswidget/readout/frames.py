"""The runs of a film: one after another on the same cells, each made when it is looked at."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from lenswidget.anatomy.protocol import ReadableModel
from lenswidget.checks import check_text
from lenswidget.errors import LensError, ModelError
from lenswidget.readout.engine import Engine
from lenswidget.readout.given_run import GivenRunEngine
from lenswidget.readout.local_engine import LocalEngine
from lenswidget.readout.run import Run, RunSpec

# Frames: each a run, the recipe of one, or a function that makes one when it is shown.
FramesLike: TypeAlias = Mapping[Any, Any] | Iterable[Any]


@dataclass(frozen=True)
class Frame:
    """One run of a film.

    Attributes:
        name: what the scrubber says.
        make: gives the run. It keeps the recipe and the model, but not the run.
    """

    name: str
    make: Callable[[], Run]


class Shape(NamedTuple):
    """The cells of a run: what all frames of a film have in common."""

    n_layers: int
    seq: int
    d_vocab: int


def frames_of(given: Any, model: ReadableModel | None = None) -> list[Frame]:
    """The frames of a film, in order.

    Args:
        given: a mapping from name to frame, or frames. An iterator is read once; of runs that it yields only
            the recipes and the model are kept.
        model: runs the recipes that are given as such.
    Raises:
        LensError: there are none, or one is none.
    """
    if isinstance(given, Mapping):
        pairs: list[tuple[Any, Any]] = list(given.items())
        frames = [_frame(str(name), each, model) for name, each in pairs]
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        # one by one: no two runs of an iterator need be in memory at once
        frames = [_frame("", each, model) for each in given]
    else:
        raise LensError(f"Asked for a film of {given!r:.60}. Pass a list of runs, or {{name: run}}.")
    if not frames:
        raise LensError("Asked for a film of no runs. Pass at least one.")
    return [frame if frame.name else Frame(str(i), frame.make) for i, frame in enumerate(frames)]


def _frame(name: str, given: Any, model: ReadableModel | None) -> Frame:
    check_text(name, "The name of a frame", LensError)
    if isinstance(given, Run):
        return Frame(name, _again(given))
    if isinstance(given, RunSpec):
        if model is None:
            raise LensError("Asked for a film of recipes with no model to run them. Pass model=.")
        return Frame(name, lambda: LocalEngine(model).run(given, reuse=False))
    if callable(given):
        return Frame(name, lambda: _run(given()))
    raise LensError(
        f"Asked for a film of {given!r:.60}. Pass runs, recipes (run.spec), or functions that make a run."
    )


def _run(made: Any) -> Run:
    if not isinstance(made, Run):
        raise LensError(f"A frame's function made {made!r:.60}. Let it return a run: model.run(prompt).")
    return made


def _again(run: Run) -> Callable[[], Run]:
    """Gives the run while something keeps it and its model is what it was; else makes it again."""
    engine = engine_of_run(run)
    if isinstance(engine, GivenRunEngine):  # nothing here can make it again
        return lambda: run
    kept, spec = weakref.ref(run), run.spec

    def make() -> Run:
        found = kept()
        return found if found is not None and found.is_current else engine.run(spec, reuse=False)

    return make


def engine_of_run(run: Run) -> Engine:
    """What reads a run, and runs its recipe again where its model is in this process."""
    try:
        return LocalEngine(run.local_model)
    except ModelError:
        return GivenRunEngine(run)


def shape_of(run: Run) -> Shape:
    """The cells of a run."""
    return Shape(run.n_layers, run.seq, run.d_vocab)


def check_same_cells(name: str, run: Run, first: Shape) -> None:
    """Raise a LensError unless a frame has the cells of the first."""
    if shape_of(run) != first:
        raise LensError(
            f"The frame {name!r:.40} has {run.n_layers} layers, {run.seq} tokens and {run.d_vocab} logits, "
            f"the first has {first.n_layers}, {first.seq} and {first.d_vocab}. Give runs of the same cells."
        )


def check_place(place: Any, frames: Sequence[Frame]) -> None:
    """Raise a LensError unless there is a frame at a place."""
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(frames):
        raise LensError(f"Asked for the frame {place!r:.40} of {len(frames)}. Use 0 to {len(frames) - 1}.")
