"""One lock per model, held while a thread runs it, traces it or reads through it."""

import threading
import weakref
from typing import Any

from torch import nn


class ModelLock:
    """A reentrant lock that is freed when its owner thread dies.

    Used like a `threading.RLock`. A trace left open in a generator may be closed on another thread than
    the one that opened it, or never; an `RLock` would then stay locked for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: threading.Thread | None = None
        self._holders: list[object] = []  # one for each `acquire` of the owner

    def acquire(self, blocking: bool = True, timeout: float = -1.0, *, holder: object = None) -> bool:
        """Take the lock, waiting while another living thread holds it.

        Args:
            blocking: False to return at once.
            timeout: seconds to wait at most; negative for ever.
            holder: by which `release_all` finds what it is to undo.
        Returns:
            whether it was taken.
        """
        me = threading.current_thread()
        with self._changed:
            if self._owner is not me and self._is_taken() and not (blocking and self._wait(timeout)):
                return False
            if self._owner is not me:
                self._owner, self._holders = me, []
            self._holders.append(holder)
        return True

    def release(self) -> None:
        """Undo one `acquire` of this thread.

        Raises:
            RuntimeError: this thread does not hold the lock.
        """
        with self._changed:
            if self._owner is not threading.current_thread():
                raise RuntimeError("The lock is held by another thread.")
            self._holders.pop()
            self._notify_if_free()

    def release_all(self, holder: object) -> None:
        """Undo what was acquired for a holder, on any thread; if nothing was, do nothing."""
        with self._changed:
            if any(one is holder for one in self._holders):
                self._holders = [one for one in self._holders if one is not holder]
                self._notify_if_free()

    def __enter__(self) -> bool:
        holder = object()
        try:
            return self.acquire(holder=holder)
        except BaseException:  # an interrupt
            self.release_all(holder)
            raise

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _notify_if_free(self) -> None:
        if not self._holders:
            self._owner = None
            self._changed.notify()

    def _is_taken(self) -> bool:
        return self._owner is not None and self._owner.is_alive()

    def _wait(self, timeout: float) -> bool:
        # a thread that dies notifies no one: look for its death now and then
        remaining = timeout
        while self._is_taken():
            if timeout >= 0 and remaining <= 0:
                return False
            slice_s = 0.2 if timeout < 0 else min(0.2, remaining)
            self._changed.wait(slice_s)
            remaining -= slice_s
        return True


_locks: "weakref.WeakKeyDictionary[nn.Module, ModelLock]" = weakref.WeakKeyDictionary()
_registry = threading.Lock()


def lock_of(module: nn.Module) -> ModelLock:
    """The lock of a model: the same one for every object that traces it."""
    with _registry:
        lock = _locks.get(module)
        if lock is None:
            lock = _locks[module] = ModelLock()
        return lock
