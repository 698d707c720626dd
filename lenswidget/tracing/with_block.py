"""The `with` block of a trace: what it sets up, and how all of it is removed, however the body ends."""

import functools
import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from torch import nn

from lenswidget.errors import TraceError
from lenswidget.tracing.aliases import Aliases
from lenswidget.tracing.cursor import Cursor
from lenswidget.tracing.diagnostics import add_note, tidy, unavailable
from lenswidget.tracing.edit_log import EditLog
from lenswidget.tracing.locks import ModelLock
from lenswidget.tracing.moments import CallOrder, ModuleRef, Moment
from lenswidget.tracing.nnsight_names import hint_for
from lenswidget.tracing.open_traces import OpenTrace, close_trace, open_trace
from lenswidget.tracing.replay import ModelCall
from lenswidget.tracing.save_method import take_save, traces_after_fork

_NO_MODEL = nn.Module()
_GONE: Any = None
T = TypeVar("T", bound="WithBlock")


class Stopped(BaseException):
    """Raised by `stop()` to leave the body; no `Exception`, so that no `except` of the body catches it."""

    def __init__(self, trace: "WithBlock") -> None:
        super().__init__()
        self.trace = trace


class WithBlock(OpenTrace):
    """Opens and closes a trace; `Trace` adds what can be done inside.

    Args:
        root: the module that is run.
        model_call: the function to run (the module, or its `generate`) and its arguments.
        order: what earlier traces have learnt of the order of the module's calls.
        lock: held while the trace is open.
        is_block: whether a module is a decoder block, whose output is wrapped in `BlockOutput`.
        aliases: other names of the modules.
    """

    _is_generation = False  # the root is called several times, each call being a step

    def __init__(
        self,
        root: nn.Module,
        model_call: ModelCall,
        order: CallOrder,
        lock: ModelLock,
        *,
        is_block: Callable[[ModuleRef], bool],
        aliases: Aliases,
    ) -> None:
        self.root = root
        self._model_call = model_call
        self._order = order
        self._lock = lock
        self._is_block = is_block
        self._aliases = aliases
        self._thread = threading.current_thread()
        self._state = "new"  # then open, stopped, closed
        self._values: dict[Moment, Any] = {}  # as the forward has them
        self._views: dict[Moment, Any] = {}  # as the body is given them, where that differs
        self._saveable: list[Any] = []  # model outputs that were given a `.save()`
        self._edit_log: EditLog = _GONE
        self._cursor: Cursor = _GONE

    @property
    def is_open(self) -> bool:
        """Whether the `with` block still runs."""
        return self._state in ("open", "stopped")

    def __enter__(self: T) -> T:
        if self._state != "new":
            raise TraceError("This trace has been entered before. Open another: `with model.trace(prompt):`.")
        try:
            _register_after_fork()
            self._thread = threading.current_thread()
            self._lock.acquire(holder=self)
            may_draw = self._order.may_draw or self.root.training
            self._edit_log = EditLog(watches_random=may_draw and not self._is_generation)
            self._cursor = Cursor(
                self._model_call, self.root, self._order, self._edit_log, is_generation=self._is_generation
            )
            self._state = "open"
            open_trace(self)
            return self
        except BaseException:  # an interrupt
            self._close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # not `bool`: type checkers would think that every body may be left early
        try:
            if error is None and self._cursor.cache is not None:
                self._end_body_turn()
                self._cursor.run_to_end()
        finally:
            try:
                self._close()
            except BaseException:  # an interrupt may strike here as well
                self._close()
                raise
        if isinstance(error, Stopped) and error.trace is self:
            return True
        if error is not None:
            tidy(error)
            hint = hint_for(error)
            if hint is not None:
                add_note(error, hint)
        return None

    def stop(self) -> None:
        """Leave the body here: neither the rest of the block nor the rest of the forward runs.

        What has been read stays, and the code after the `with` block goes on.
        """
        self._check_open("the end")
        self._cursor.close()
        self._state = "stopped"
        raise Stopped(self)

    @abstractmethod
    def _end_body_turn(self) -> None:
        """The forward is about to go on."""

    def _close(self) -> None:
        """Remove all that the trace has set up; called again after an interrupt, it does the rest."""
        self._state = "closed"
        try:
            if self._cursor is not _GONE:
                self._cursor.close()
        finally:
            self._values.clear()
            self._views.clear()
            for output in self._saveable:
                take_save(output)
            self._saveable.clear()
            close_trace(self)
            self._lock.release_all(self)
        # a trace that the user keeps holds its result and no other value
        self.root = _NO_MODEL
        self._model_call = self._edit_log = self._cursor = _GONE

    def _check_open(self, asked: str) -> None:
        if self._state != "open" or threading.current_thread() is not self._thread:
            raise unavailable(asked, self._state)

    def close_after_fork(self) -> None:
        """In a forked child: close the trace if it was open on a thread that the child does not have."""
        if self._thread is not threading.current_thread():
            self._close()


@functools.cache
def _register_after_fork() -> None:
    # with the first trace, not at import, which changes nothing
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_after_fork)


def _close_after_fork() -> None:
    for trace in traces_after_fork():
        trace.close_after_fork()
