"""The part of the widget that says whether its model is there, where that is in another process."""

import asyncio
from typing import Any

import traitlets as t

from lenswidget.widget.session import Session

IDLE = {"state": "idle", "text": "", "done": 0, "total": 0}
# What the page says of a model that is not there; what is shown stays.
AWAY = {
    "connecting": "The model's actor was lost and is started again: what is shown stays",
    "lost": "The model's cluster is not reached any more: what is shown stays",
}
LOOK_S = 0.5


class EngineWatch(t.HasTraits):
    """Keeps the trait `status` true while the model comes back."""

    _session: Session
    status: Any
    _watch: "asyncio.Task[None] | None" = None

    @property
    def _status_at_rest(self) -> dict[str, Any]:
        """The status while nothing runs."""
        state = self._session.engine_state()
        return IDLE if state == "live" else {**IDLE, "state": state, "text": AWAY[state]}

    def _on_engine_lost(self) -> None:
        """Say so, and say so again once it is back: from the event loop, where one runs."""
        self.set_trait("status", self._status_at_rest)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a script: the status follows at the next run
            return
        if self._watch is None or self._watch.done():
            self._watch = loop.create_task(self._until_back())

    async def _until_back(self) -> None:
        while self._session.shown_runs is not None:  # until the widget is closed
            status: Any = self._status_at_rest
            if status != self.status:
                self.set_trait("status", status)
            if status["state"] != "connecting":
                return
            await asyncio.sleep(LOOK_S)
