"""A trace of a generation: the model is called again and again, a step for each token, never back."""

from typing import Any

from lenswidget.errors import OutOfOrderError
from lenswidget.tracing.moments import ModuleRef, Moment
from lenswidget.tracing.trace import Trace


class Generation(Trace):
    """A trace whose root is called several times; values are those of the current step."""

    _is_generation = True

    def _bring(self, moment: Moment, ref: ModuleRef, to_write: bool) -> None:
        cursor = self._cursor
        if cursor.has_passed(moment):
            errors = self._errors(ref)
            raise errors.too_late(moment, cursor.at) if to_write else errors.too_late_to_read(moment)
        end_of_step = Moment(self.root, "output", 0, self._step)
        if not cursor.advance_to(moment, ref, end_of_step):
            raise self._errors(ref).not_reached(moment, cursor.called())
        assert cursor.at is not None
        self._record(cursor.at, ref, cursor.value)
        if cursor.at != moment:
            raise self._errors(ref).not_reached(moment, cursor.called())

    def _watch(self, moment: Moment, value: Any) -> None:
        """Do nothing: a generation is not replayed."""

    def _to_step(self, step: int) -> bool:
        """Move on to the beginning of a step; False if the generation ends before it."""
        self._check_open(f"step {step}")
        has_ended = self._cursor.has_ended
        if step < self._step or (step == self._step and has_ended):
            found = "has ended" if has_ended else f"is at step {self._step}"
            raise OutOfOrderError(
                f"Asked for step {step}, but the generation {found}, and its steps are gone through once. Do "
                "all of it in one loop, or open another trace."
            )
        if step == self._step or has_ended:
            return not has_ended
        self._end_body_turn()
        start_of_step, root = Moment(self.root, "input", 0, step), ModuleRef("", self.root, ())
        if not self._cursor.advance_to(start_of_step, root):
            self._end(self._cursor.result)
            return False
        self._values.clear()
        self._views.clear()
        self._step = step
        self._record(start_of_step, root, self._cursor.value)
        return True
