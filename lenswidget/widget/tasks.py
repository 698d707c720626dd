"""Requests in slices: long ones let the kernel breathe between slices, so that a cancel can arrive.

Where an event loop runs (every notebook kernel), slices take turns with it; where none does (a script), a
request runs through at once.
"""

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

from traitlets import TraitError

from lenswidget.errors import Cancelled, LensError
from lenswidget.widget.turns import undisturbed

logger = logging.getLogger("lenswidget")


class ErrorMessage(TypedDict):
    """Why a request was not answered: the error's class, and one sentence for the page."""

    type: str
    message: str


def error_message(error: BaseException) -> ErrorMessage:
    """An error as the page is told it. One that is not of this package is logged and named as internal."""
    if isinstance(error, KeyboardInterrupt):
        return {"type": "Cancelled", "message": "The kernel was interrupted."}
    if isinstance(error, (LensError, TraitError)):
        return {"type": type(error).__name__, "message": str(error)}
    logger.error("a request of the page failed", exc_info=error)
    line = next(iter(str(error).splitlines()), "")
    return {"type": "InternalError", "message": f"Internal error: {type(error).__name__}: {line:.200}"}


@dataclass(frozen=True)
class Answer:
    """A reply's value, and what is done once the reply is out."""

    value: Any
    then: Callable[[], None]


@dataclass(frozen=True)
class _Ended:
    """Work that has come to its end."""

    value: Any


class Tasks:
    """The requests in progress; each gets exactly one reply.

    Args:
        reply: called once per request, with `value=` or `error=`.
        progress: called after each slice, with the request's id, cells done, cells in all.
        turn: held during each slice: a thread of its own may handle the page's messages.
        takes_turns: whether messages leave while the event loop turns; else requests run through at once.
    """

    def __init__(
        self,
        reply: Callable[..., None],
        progress: Callable[[Any, int, int], None],
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
        takes_turns: Callable[[], bool] = lambda: True,
    ):
        self._reply = reply
        self._progress = progress
        self._turn = turn
        self._takes_turns = takes_turns
        self._cancelled: set[Any] = set()
        self._answered_last: Any = None
        self._open: dict[Any, asyncio.Task[None] | None] = {}

    def start(self, request_id: Any, work: Generator[tuple[int, int], None, Any]) -> None:
        """Do the first slice now; the rest in turns with the event loop, if there is one.

        Args:
            request_id: names the request.
            work: yields `(done, total)` between slices and returns the reply's value.
        """
        self._open[request_id] = None
        if not self._slice(request_id, work):
            return
        try:
            loop = asyncio.get_running_loop() if self._takes_turns() else None
        except RuntimeError:
            loop = None
        if loop is not None:
            self._open[request_id] = loop.create_task(self._turns(request_id, work))
            return
        while self._slice(request_id, work):
            pass

    def cancel(self, request_id: Any) -> None:
        """Stop a request at its next slice; one that is done or unknown is left alone."""
        if request_id in self._open:
            self._cancelled.add(request_id)

    def give_up(self, request_id: Any) -> bool:
        """Forget a request whose work was interrupted; whether it still waits for its reply."""
        task = self._open.pop(request_id, None)
        if task is not None:
            task.cancel()
        self._cancelled.discard(request_id)
        return request_id != self._answered_last

    async def _turns(self, request_id: Any, work: Generator[tuple[int, int], None, Any]) -> None:
        while True:
            # two turns of the loop: one lets the socket be read, the next the message be handled
            await asyncio.sleep(0.001)
            if not self._slice(request_id, work):
                return

    def _slice(self, request_id: Any, work: Generator[tuple[int, int], None, Any]) -> bool:
        """One slice; False once the request has had its reply."""
        try:
            with self._turn():
                step = self._step(request_id, work)
        except (Exception, KeyboardInterrupt) as error:
            self._end(request_id, error=error_message(error))
            return False
        if isinstance(step, _Ended):
            self._answered(request_id, step.value)
            return False
        self._progress(request_id, *step)
        return True

    def _step(
        self, request_id: Any, work: Generator[tuple[int, int], None, Any]
    ) -> "tuple[int, int] | _Ended":
        try:
            if request_id in self._cancelled:
                work.throw(Cancelled("Stopped on request."))
            return next(work)
        except StopIteration as stop:
            return _Ended(stop.value)

    def _answered(self, request_id: str, value: Any) -> None:
        if not isinstance(value, Answer):
            return self._end(request_id, value=value)
        self._end(request_id, value=value.value)
        try:
            with self._turn():
                value.then()
        except Exception:
            logger.exception("what follows a reply failed")
        return None

    def _end(self, request_id: Any, **outcome: Any) -> None:
        self._open.pop(request_id, None)
        self._cancelled.discard(request_id)
        with undisturbed():
            self._reply(request_id, **outcome)
            self._answered_last = request_id
