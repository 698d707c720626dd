"""A trace of a generation: the model is called again and again, a step for each token, never back."""

from typing import Any

from lenswidget.errors import OutOfOrderError
from lenswidget.order import Place, Point
from lenswidget.tracing import Trace


class Generation(Trace):
    """A trace whose root is called several times; values are those of the step that the body stands in."""

    _is_generation = True

    def _bring(self, point: Point, place: Place, to_write: bool) -> None:
        course = self._course
        if course.has_passed(point):
            refusals = self._refusals(place)
            raise refusals.too_late(point, course.at) if to_write else refusals.too_late_to_read(point)
        end_of_step = Point(self.root, "output", 0, self._step)
        if not course.go_on(point, place, end_of_step):
            raise self._refusals(place).not_reached(point, course.called())
        assert course.at is not None
        self._arrive(course.at, place, course.value)
        if course.at != point:
            raise self._refusals(place).not_reached(point, course.called())

    def _hold(self, point: Point, value: Any) -> None:
        """Nothing: a generation is not run again."""

    def _to_step(self, step: int) -> bool:
        """Move on to the beginning of a step; False where the generation ends before it."""
        self._check_open(f"step {step}")
        if step < self._step:
            raise OutOfOrderError(
                f"Asked for step {step}, but the generation is at step {self._step}. Read it there."
            )
        if step == self._step or self._course.has_ended:
            return not self._course.has_ended
        self._give_back()
        start_of_step, root = Point(self.root, "input", 0, step), Place("", self.root, ())
        if not self._course.go_on(start_of_step, root):
            self._end(self._course.result)
            return False
        self._values.clear()
        self._views.clear()
        self._step = step
        self._arrive(start_of_step, root, self._course.value)
        return True
