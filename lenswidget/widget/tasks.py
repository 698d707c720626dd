"""Requests in slices: long ones let the kernel breathe between slices, so that a cancel can arrive.

No thread is involved. Where an event loop runs (every notebook kernel), slices take turns with it; where
none does (a script), a request runs through at once.
"""

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Any

from lenswidget.errors import Cancelled, LensError

logger = logging.getLogger("lenswidget")


class Tasks:
    """The requests in progress; each gets exactly one reply.

    Args:
        reply: called once per request, with `value=` or `error=`.
        progress: called after each slice, with the request's id, cells done, cells in all.
    """

    def __init__(self, reply: Callable[..., None], progress: Callable[[Any, int, int], None]):
        self._reply = reply
        self._progress = progress
        self._cancelled: set[Any] = set()
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
            loop = asyncio.get_running_loop()
        except RuntimeError:
            while self._slice(request_id, work):
                pass
        else:
            self._open[request_id] = loop.create_task(self._turns(request_id, work))

    def cancel(self, request_id: Any) -> None:
        """Stop a request at its next slice; one that is done or unknown is left alone."""
        if request_id in self._open:
            self._cancelled.add(request_id)

    async def _turns(self, request_id: Any, work: Generator[tuple[int, int], None, Any]) -> None:
        while True:
            # two turns of the loop: one lets the socket be read, the next the message be handled
            await asyncio.sleep(0.001)
            if not self._slice(request_id, work):
                return

    def _slice(self, request_id: Any, work: Generator[tuple[int, int], None, Any]) -> bool:
        """One slice; False once the request has had its reply."""
        try:
            if request_id in self._cancelled:
                work.throw(Cancelled("Stopped on request."))
            done, total = next(work)
        except StopIteration as stop:
            self._end(request_id, value=stop.value)
        except Exception as error:
            if not isinstance(error, LensError):
                logger.exception("a request of the page failed")
            self._end(request_id, error={"type": type(error).__name__, "message": str(error)})
        else:
            self._progress(request_id, done, total)
            return True
        return False

    def _end(self, request_id: Any, **outcome: Any) -> None:
        self._open.pop(request_id, None)
        self._cancelled.discard(request_id)
        self._reply(request_id, **outcome)
