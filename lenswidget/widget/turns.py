"""One thread at a time works on widgets: a page's messages may come on another thread than the cells run on.

JupyterLab 4.6 with ipykernel 7 sends the messages of comms to a subshell, which is a thread, so that they are
answered while a cell runs. ipywidgets 8.1 and traitlets 5 take no lock of their own.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import traitlets as t

from lenswidget.tracing.locks import ModelLock

# Of all widgets: two that are linked set each other's traits, and two locks could then wait for each other.
_WIDGETS = ModelLock()


class _Waiting:
    """Takes the place of Python's handler of SIGINT: the first interrupt waits, a second one does not."""

    has_come = False

    def __call__(self, *_: Any) -> None:
        if self.has_come:
            raise KeyboardInterrupt
        self.has_come = True


def _handler() -> Any:
    is_main = threading.current_thread() is threading.main_thread()
    return signal.getsignal(signal.SIGINT) if is_main else None


@contextmanager
def undisturbed() -> Generator[None, None, None]:
    """An interrupt waits for the end of the body: in the middle of a send nobody knows whether it is out.

    Python looks for signals when a function begins: one that is delivered at the entry of `__exit__` would
    leave a lock held.
    """
    if _handler() is not signal.default_int_handler:
        yield
        return
    waiting = _Waiting()
    signal.signal(signal.SIGINT, waiting)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if waiting.has_come:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Generator[None, None, None]:
    """Long work inside of `undisturbed`, which an interrupt ends; one that waits ends it before it begins."""
    waiting = _handler()
    if not isinstance(waiting, _Waiting):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if waiting.has_come:
            waiting.has_come = False
            raise KeyboardInterrupt
        yield
    finally:
        signal.signal(signal.SIGINT, waiting)


@contextmanager
def turn(*locks: ModelLock) -> Generator[None, None, None]:
    """Hold the lock of all widgets, and those of some models; an interrupt waits for its end.

    While another thread has a model, the lock of the widgets is free: that thread may set a widget's trait.
    """
    with undisturbed():
        while True:
            with _held(_WIDGETS), ExitStack() as stack:
                taken = next((lock for lock in locks if not _take(lock, stack)), None)
                if taken is None:
                    yield
                    return
            with _held(taken):
                pass


@contextmanager
def _held(lock: ModelLock) -> Generator[None, None, None]:
    holder = object()
    try:
        with interruptible():  # another thread may have it for long
            lock.acquire(holder=holder)
        yield
    finally:
        lock.release_all(holder)


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


class _Left(t.TraitError):
    """A hold was left by another error: as a `TraitError`, for which alone traitlets takes values back."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


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

    def _way_back(self) -> Callable[[], None]:
        """What puts the traits back as they are now, here and on the page; no observer hears of it."""
        before: dict[str, Any] = dict(self._trait_values)

        def back() -> None:
            own: Any = self
            now: dict[str, Any] = self._trait_values
            told = [name for name, value in before.items() if now.get(name) is not value and name in own.keys]
            now.update(before)
            if told and own.comm is not None:
                own.send_state(told)

        return back

    @contextmanager
    def _whole(self) -> Generator[None, None, None]:
        """A turn in which all of a change is made, or nothing of it where an interrupt comes."""
        with self._turn():
            back = self._way_back()
            try:
                yield
            except KeyboardInterrupt:
                with undisturbed():
                    back()
                raise

    def _in_turns(self, work: Generator[Any, None, Any]) -> Generator[Any, None, Any]:
        return in_turns(work, *self._locks)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), t.TraitType):
            with self._whole():
                super().__setattr__(name, value)
        else:
            super().__setattr__(name, value)

    def notify_change(self, change: Any) -> None:
        """Send a trait that changed, and tell its observers."""
        with self._turn():
            super().notify_change(change)

    @contextmanager
    def hold_trait_notifications(self) -> Any:
        """Several traits at once, checked and told at the end; after any error all are as they were."""
        with self._turn():
            back = self._way_back()
            try:
                with super().hold_trait_notifications():
                    try:
                        with interruptible():
                            yield
                    except t.TraitError:
                        raise
                    except BaseException as error:
                        raise _Left(error) from None
            except BaseException as error:
                with undisturbed():
                    back()
                if isinstance(error, _Left):
                    raise error.error from None
                raise

    @contextmanager
    def hold_sync(self) -> Any:
        """Several traits in one message."""
        above: Any = super()
        with self._turn(), above.hold_sync(), interruptible():
            yield

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take traits from the page."""
        above: Any = super()
        with self._turn():
            above.set_state(sync_data)
