"""A trace: the body of a `with` block and a model's forward, taking turns on one thread."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from lenswidget.changes import Changes
from lenswidget.course import Course
from lenswidget.errors import TraceError
from lenswidget.forward import NOTHING
from lenswidget.locks import ModelLock
from lenswidget.order import CallOrder, Place, Point
from lenswidget.refusals import Refusals, unavailable
from lenswidget.rerun import Inputs
from lenswidget.saving import add_save, close_trace, open_trace, take_save
from lenswidget.steps import Steps
from lenswidget.tracebacks import tidy
from lenswidget.values import Parts, block_output, check_fit, leaves, plain, replace_first

_NO_MODEL = nn.Module()
_GONE: Any = None


class Trace:
    """One run of a model, open while its `with` block runs. `TracedModel.trace` makes it.

    The body of the block and the model's forward take turns: asking for a value lets the forward run
    until the value is there, and no further. What the body never asks for is never computed.

    Args:
        root: the module that is run.
        inputs: the function to run (the module, or its `generate`) and what to call it with.
        order: what is known of the order of the module's calls.
        lock: held while the trace is open.
        is_block: whether a module is a decoder block, whose output has two faces.
    """

    _is_generation = False  # the root is called several times, each call being a step

    def __init__(
        self,
        root: nn.Module,
        inputs: Inputs,
        order: CallOrder,
        lock: ModelLock,
        *,
        is_block: Callable[[Place], bool] = lambda place: False,
    ) -> None:
        self.root = root
        self._inputs = inputs
        self._order = order
        self._lock = lock
        self._is_block = is_block
        self._thread = threading.current_thread()
        self._state = "new"  # then open, stopped, closed
        self._step = 0
        self._values: dict[Point, Any] = {}  # as the forward has them
        self._views: dict[Point, Any] = {}  # as the body is given them, where that differs
        self._saveable: list[Any] = []
        self._result: Any = NOTHING
        self._has_lock = False

    @property
    def is_open(self) -> bool:
        """Whether the `with` block still runs."""
        return self._state in ("open", "stopped")

    def __enter__(self) -> "Trace":
        if self._state != "new":
            raise TraceError("This trace has been entered before. Open another: `with model.trace(prompt):`.")
        self._lock.acquire()
        self._has_lock = True
        try:
            self._thread = threading.current_thread()
            may_draw = self._order.draws or self.root.training
            self._changes = Changes(watches_random=may_draw and not self._is_generation)
            self._course = Course(
                self._inputs, self.root, self._order, self._changes, is_generation=self._is_generation
            )
            open_trace(self)
            self._state = "open"
        except BaseException:  # an interrupt
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close()
        except BaseException:  # an interrupt may strike here as well
            self._close()
            raise
        if error is not None:
            tidy(error)

    def _close(self) -> None:
        """Leave nothing behind; begun again after an interrupt, it does what is left to do."""
        self._state = "closed"
        if self._course is _GONE:
            return
        try:
            self._course.close()
        finally:
            self._values.clear()
            self._views.clear()
            for output in self._saveable:
                take_save(output)
            self._saveable.clear()
            self._leave()
        # whoever keeps the trace keeps its result and nothing else
        self.root = _NO_MODEL
        self._inputs = self._changes = self._course = _GONE

    def _leave(self) -> None:
        close_trace(self)
        if self._has_lock:
            self._has_lock = False
            self._lock.release(self._thread)

    @property
    def result(self) -> Any:
        """What the model returns: asking for it runs the forward to its end.

        Stays after the trace has closed, where it was asked for inside.

        Raises:
            TraceError: the trace is closed, and did not run to the end.
        """
        if self._result is NOTHING:
            self._check_open("the result")
            self._give_back()
            self._end(self._course.to_end())
        return self._result

    @property
    def steps(self) -> Steps:
        """The calls of the model in a generation, one after the other; one step in a plain trace.

        `for step in tracer.steps:` moves on from step to step; inside the loop every module's `.output` and
        `.input` are those of that step.
        """
        return Steps(self._to_step)

    def stop(self) -> None:
        """End the forward here: nothing more is needed. What has been read stays."""
        self._check_open("the end")
        self._course.close()
        self._state = "stopped"

    def read(self, place: Place, kind: str) -> Any:
        """The value of a module's call: what it returned, or the pair of what it was given.

        Args:
            kind: "output" or "input".
        Raises:
            NotReachedError: the module does not run in this forward.
            OutOfOrderError: it ran in a generation, which has passed it.
        """
        point = Point(place.module, kind, place.call, self._step)
        if point not in self._values:
            self._reach(point, place)
        return self._views[point] if point in self._views else self._values[point]

    def write(self, place: Place, kind: str, value: Any) -> None:
        """Let the rest of the forward see another value.

        Raises:
            OutOfOrderError: the forward has passed it.
            ShapeError: the value does not fit.
        """
        point = self._reach_to_write(place, kind)
        found = self._values[point]
        if kind == "output" and self._is_block(place):
            states = value[0] if isinstance(value, tuple) and len(value) == 1 else value
            value = replace_first(found, plain(states)) if isinstance(states, Tensor) else value
        value = plain(value)
        check_fit(value, found, self._refusals(place).name(point))
        self._give_back()
        self._course.reply = value
        self._changes.assigned(point, value)
        self._arrive(point, place, value)
        self._changes.body_takes_over()

    def skip(self, place: Place, value: Any) -> None:
        """Let a module return `value` without running.

        Raises:
            OutOfOrderError: the module has run, or is running.
        """
        self._check_open("a skip")
        value = plain(value)
        if isinstance(value, Tensor) and self._is_block(place):
            n_parts = self._course.n_returned(place)
            value = value if n_parts is None else (value, *[None] * (n_parts - 1))
        point = self._reach_to_write(place, "input")
        self._give_back()
        self._course.skip(value)
        self._changes.skipped(point, value)
        self._changes.body_takes_over()

    def _reach_to_write(self, place: Place, kind: str) -> Point:
        """Bring the forward to a point, so that what it has there can be changed."""
        point = Point(place.module, kind, place.call, self._step)
        if point not in self._values or point != self._course.at:
            self._reach(point, place, to_write=True)
        return point

    def _reach(self, point: Point, place: Place, *, to_write: bool = False) -> None:
        """Bring the forward to a point, or find what stood there: its value is then in `_values`."""
        if self._state != "open" or threading.get_ident() != self._thread.ident:
            self._check_open(self._refusals(place).name(point))
        if self._course.at is not None:
            self._give_back()
        try:
            self._bring(point, place, to_write)
        finally:
            self._changes.body_takes_over()

    def _bring(self, point: Point, place: Place, to_write: bool) -> None:
        course = self._course
        if point in self._values:
            raise self._refusals(place).too_late(point, course.at)
        if not course.has_passed(point) and course.go_on(point, place):
            self._arrive(point, place, course.value)
        else:
            self._look_back(point, place, to_write)

    def _look_back(self, point: Point, place: Place, to_write: bool) -> None:
        course = self._course
        if course.look_back(point, place):
            if to_write:
                raise self._refusals(place).too_late(point, course.at)
            return self._arrive(point, place, course.replayed)
        # it has not been passed after all: it was not watched for in time, or the guess was wrong
        if not course.has_ended and course.go_on(point, place):
            return self._arrive(point, place, course.value)
        raise self._refusals(place).not_reached(point, course.called())

    def _arrive(self, point: Point, place: Place, value: Any) -> None:
        self._values[point] = value
        if isinstance(value, dict) and add_save(value):
            self._saveable.append(value)
        self._views.pop(point, None)
        if point.kind == "output" and point.module is place.module and self._is_block(place):
            self._views[point] = block_output(value)
        elif type(value) is tuple:
            self._views[point] = Parts(value)
        self._hold(point, value)

    def _hold(self, point: Point, value: Any) -> None:
        """See to it that what the body does to a value in place can be done again in a rerun."""
        found = leaves(value)
        self._inputs.protect(found)
        if point == self._course.at:
            self._changes.hold(point, value, found)

    def _give_back(self) -> None:
        """The body is about to let the forward go on: settle what it has done where the forward stands."""
        at = self._course.at
        if at is None:
            return
        self._changes.body_gives_back(at)
        view = self._views.get(at)
        if isinstance(view, Tensor) and view.requires_grad:
            # the forward goes on from the very tensor that the body holds, so that gradients reach it
            self._course.reply = replace_first(self._values[at], plain(view))

    def _to_step(self, step: int) -> bool:
        """Move on to the beginning of a step; False where there is none."""
        self._check_open(f"step {step}")
        return step == 0 and not self._course.has_ended

    def _end(self, result: Any) -> None:
        self._course.end(result)
        self._result = result
        if isinstance(result, dict) and add_save(result):
            self._saveable.append(result)
        if not self._is_generation:
            self._values.setdefault(Point(self.root, "output"), result)

    def _refusals(self, place: Place) -> Refusals:
        places = (place,) if self._state == "closed" else (place, self._course.place)
        return Refusals(self.root, self._is_generation, places)

    def _check_open(self, asked: str) -> None:
        if self._state != "open" or threading.current_thread() is not self._thread:
            raise unavailable(asked, self._state)
