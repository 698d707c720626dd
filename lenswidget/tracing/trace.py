"""A trace: the body of a `with` block and a model's forward take turns on one thread."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from lenswidget.errors import TraceError
from lenswidget.nested import leaves
from lenswidget.tracing.cursor import Cursor
from lenswidget.tracing.diagnostics import TraceErrors, tidy, unavailable
from lenswidget.tracing.edit_log import EditLog
from lenswidget.tracing.forward import NOTHING
from lenswidget.tracing.locks import ModelLock
from lenswidget.tracing.moments import CallOrder, ModuleRef, Moment
from lenswidget.tracing.open_traces import OpenTrace, close_trace, open_trace
from lenswidget.tracing.replay import ModelCall
from lenswidget.tracing.save_method import add_save, take_save
from lenswidget.tracing.steps import Steps
from lenswidget.tracing.values import SavableTuple, as_block_output, check_fit, plain, with_hidden_states

_NO_MODEL = nn.Module()
_GONE: Any = None


class Trace(OpenTrace):
    """One run of a model, open while its `with` block runs. `TracedModel.trace` makes it.

    The body of the block and the model's forward take turns: asking for a value lets the forward run
    until the value is there, and no further. What the body never asks for is never computed.

    Args:
        root: the module that is run.
        model_call: the function to run (the module, or its `generate`) and its arguments.
        order: what earlier traces have learnt of the order of the module's calls.
        lock: held while the trace is open.
        is_block: whether a module is a decoder block, whose output is wrapped in `BlockOutput`.
    """

    _is_generation = False  # the root is called several times, each call being a step

    def __init__(
        self,
        root: nn.Module,
        model_call: ModelCall,
        order: CallOrder,
        lock: ModelLock,
        *,
        is_block: Callable[[ModuleRef], bool] = lambda ref: False,
    ) -> None:
        self.root = root
        self._model_call = model_call
        self._order = order
        self._lock = lock
        self._is_block = is_block
        self._thread = threading.current_thread()
        self._state = "new"  # then open, stopped, closed
        self._step = 0
        self._values: dict[Moment, Any] = {}  # as the forward has them
        self._views: dict[Moment, Any] = {}  # as the body is given them, where that differs
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
            may_draw = self._order.may_draw or self.root.training
            self._edit_log = EditLog(watches_random=may_draw and not self._is_generation)
            self._cursor = Cursor(
                self._model_call, self.root, self._order, self._edit_log, is_generation=self._is_generation
            )
            open_trace(self)
            self._state = "open"
        except BaseException:  # an interrupt
            self._release()
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
        """Remove all that the trace has set up; called again after an interrupt, it does the rest."""
        self._state = "closed"
        if self._cursor is _GONE:
            return
        try:
            self._cursor.close()
        finally:
            self._values.clear()
            self._views.clear()
            for output in self._saveable:
                take_save(output)
            self._saveable.clear()
            self._release()
        # a trace that the user keeps holds its result and no other value
        self.root = _NO_MODEL
        self._model_call = self._edit_log = self._cursor = _GONE

    def _release(self) -> None:
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
            self._end_body_turn()
            self._end(self._cursor.run_to_end())
        return self._result

    @property
    def steps(self) -> Steps:
        """The steps of a generation, each a call of the model; a plain trace has one step.

        `for step in tracer.steps:` moves on from step to step; inside the loop every module's `.output` and
        `.input` are those of that step.
        """
        return Steps(self._to_step)

    def stop(self) -> None:
        """End the forward here. What has been read stays."""
        self._check_open("the end")
        self._cursor.close()
        self._state = "stopped"

    def read(self, ref: ModuleRef, kind: str) -> Any:
        """The value of a module's call: what it returned, or the pair of what it was given.

        Args:
            kind: "output" or "input".
        Raises:
            NotReachedError: the module does not run in this forward.
            OutOfOrderError: it ran in a generation, which has passed it.
        """
        moment = Moment(ref.module, kind, ref.call, self._step)
        if moment not in self._values:
            self._reach(moment, ref)
        return self._views[moment] if moment in self._views else self._values[moment]

    def write(self, ref: ModuleRef, kind: str, value: Any) -> None:
        """Replace what a module returned, or what it was given, for the rest of the forward.

        Raises:
            OutOfOrderError: the forward has passed it.
            ShapeError: the value does not fit.
        """
        moment = self._reach_to_write(ref, kind)
        found = self._values[moment]
        if kind == "output" and self._is_block(ref):
            states = value[0] if isinstance(value, tuple) and len(value) == 1 else value
            value = with_hidden_states(found, plain(states)) if isinstance(states, Tensor) else value
        value = plain(value)
        check_fit(value, found, self._errors(ref).name(moment))
        self._end_body_turn()
        self._cursor.reply = value
        self._edit_log.log_assignment(moment, value)
        self._record(moment, ref, value)
        self._edit_log.begin_body_turn()

    def skip(self, ref: ModuleRef, value: Any) -> None:
        """Let a module return `value` without running.

        Raises:
            OutOfOrderError: the module has run, or is running.
        """
        self._check_open("a skip")
        value = plain(value)
        if isinstance(value, Tensor) and self._is_block(ref):
            n_parts = self._cursor.n_parts(ref)
            value = value if n_parts is None else (value, *[None] * (n_parts - 1))
        moment = self._reach_to_write(ref, "input")
        self._end_body_turn()
        self._cursor.skip(value)
        self._edit_log.log_skip(moment, value)
        self._edit_log.begin_body_turn()

    def _reach_to_write(self, ref: ModuleRef, kind: str) -> Moment:
        """Bring the forward to a moment, so that its value there can be changed."""
        moment = Moment(ref.module, kind, ref.call, self._step)
        if moment not in self._values or moment != self._cursor.at:
            self._reach(moment, ref, to_write=True)
        return moment

    def _reach(self, moment: Moment, ref: ModuleRef, *, to_write: bool = False) -> None:
        """Bring the forward to a moment, or replay it: the value is then in `_values`."""
        if self._state != "open" or threading.get_ident() != self._thread.ident:
            self._check_open(self._errors(ref).name(moment))
        if self._cursor.at is not None:
            self._end_body_turn()
        try:
            self._bring(moment, ref, to_write)
        finally:
            self._edit_log.begin_body_turn()

    def _bring(self, moment: Moment, ref: ModuleRef, to_write: bool) -> None:
        cursor = self._cursor
        if moment in self._values:
            raise self._errors(ref).too_late(moment, cursor.at)
        if not cursor.has_passed(moment) and cursor.advance_to(moment, ref):
            self._record(moment, ref, cursor.value)
        else:
            self._replay(moment, ref, to_write)

    def _replay(self, moment: Moment, ref: ModuleRef, to_write: bool) -> None:
        cursor = self._cursor
        if cursor.replay(moment, ref):
            if to_write:
                raise self._errors(ref).too_late(moment, cursor.at)
            return self._record(moment, ref, cursor.replayed)
        # it has not been passed after all: no hook was set in time, or the guess was wrong
        if not cursor.has_ended and cursor.advance_to(moment, ref):
            return self._record(moment, ref, cursor.value)
        raise self._errors(ref).not_reached(moment, cursor.called())

    def _record(self, moment: Moment, ref: ModuleRef, value: Any) -> None:
        self._values[moment] = value
        if isinstance(value, dict) and add_save(value):
            self._saveable.append(value)
        self._views.pop(moment, None)
        if moment.kind == "output" and moment.module is ref.module and self._is_block(ref):
            self._views[moment] = as_block_output(value)
        elif type(value) is tuple:
            self._views[moment] = SavableTuple(value)
        self._watch(moment, value)

    def _watch(self, moment: Moment, value: Any) -> None:
        """Watch a value for edits in place, which a replay must make as well."""
        found = leaves(value)
        self._model_call.protect(found)
        if moment == self._cursor.at:
            self._edit_log.watch(moment, value, found)

    def _end_body_turn(self) -> None:
        """The forward is about to go on: log the body's edits in place where the forward waits."""
        at = self._cursor.at
        if at is None:
            return
        self._edit_log.end_body_turn(at)
        view = self._views.get(at)
        if isinstance(view, Tensor) and view.requires_grad:
            # the forward goes on from the very tensor that the body holds, so that gradients reach it
            self._cursor.reply = with_hidden_states(self._values[at], plain(view))

    def _to_step(self, step: int) -> bool:
        """Move on to the beginning of a step; False if there is none."""
        self._check_open(f"step {step}")
        return step == 0 and not self._cursor.has_ended

    def _end(self, result: Any) -> None:
        self._cursor.end(result)
        self._result = result
        if isinstance(result, dict) and add_save(result):
            self._saveable.append(result)
        if not self._is_generation:
            self._values.setdefault(Moment(self.root, "output"), result)

    def _errors(self, ref: ModuleRef) -> TraceErrors:
        refs = (ref,) if self._state == "closed" else (ref, self._cursor.ref)
        return TraceErrors(self.root, self._is_generation, refs)

    def _check_open(self, asked: str) -> None:
        if self._state != "open" or threading.current_thread() is not self._thread:
            raise unavailable(asked, self._state)
