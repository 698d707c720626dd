"""One thread at a time works on widgets: a page's messages may come on another thread than the cells run on.

JupyterLab 4.6 with ipykernel 7 sends the messages of comms to a subshell, which is a thread, so that they are
answered while a cell runs. ipywidgets 8.1 and traitlets 5 take no lock of their own.
"""

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import traitlets as t

from lenswidget.tracing.locks import ModelLock

# Of all widgets: two that are linked set each other's traits, and two locks could then wait for each other.
_WIDGETS = ModelLock()


@contextmanager
def turn(*locks: ModelLock) -> Generator[None, None, None]:
    """Hold the lock of all widgets, and those of some models.

    While another thread has a model, the lock of the widgets is free: that thread may set a widget's trait.
    """
    while True:
        with _WIDGETS, ExitStack() as stack:
            taken = next((lock for lock in locks if not _take(lock, stack)), None)
            if taken is None:
                yield
                return
        with taken:
            pass


def _take(lock: ModelLock, stack: ExitStack) -> bool:
    holder = object()
    stack.callback(lock.release_all, holder)  # first, for an interrupt may come between the two
    return lock.acquire(blocking=False, holder=holder)


def in_turns(work: Generator[Any, None, Any], *locks: ModelLock) -> Generator[Any, None, Any]:
    """The same work in the same slices, each in a turn of its own: other threads get theirs in between."""
    try:
        while True:
            with turn(*locks):
                try:
                    step = next(work)
                except StopIteration as stop:
                    return stop.value
            yield step
    finally:
        with turn(*locks):
            work.close()


class HasLocks(Protocol):
    """What knows the locks of the models that a widget shows."""

    @property
    def locks(self) -> tuple[ModelLock, ...]:
        """Those of its models."""
        ...


class TakesTurns(t.HasTraits):
    """A widget whose state one thread at a time reads and changes, whoever sets a trait."""

    @property
    def _locks(self) -> tuple[ModelLock, ...]:
        session: HasLocks | None = self.__dict__.get("_session")
        return () if session is None else session.locks

    def _turn(self) -> AbstractContextManager[None]:
        return turn(*self._locks)

    def _in_turns(self, work: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
        return in_turns(work, *self._locks)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), t.TraitType):
            with self._turn():
                super().__setattr__(name, value)
        else:
            super().__setattr__(name, value)

    def notify_change(self, change: Any) -> None:
        """Send a trait that changed, and tell its observers."""
        with self._turn():
            super().notify_change(change)

    @contextmanager
    def hold_trait_notifications(self) -> Any:
        """Several traits at once, checked and told at the end."""
        with self._turn(), super().hold_trait_notifications():
            yield

    @contextmanager
    def hold_sync(self) -> Any:
        """Several traits in one message."""
        above: Any = super()
        with self._turn(), above.hold_sync():
            yield

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take traits from the page."""
        above: Any = super()
        with self._turn():
            above.set_state(sync_data)
