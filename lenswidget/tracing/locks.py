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
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1.0) -> bool:
        """Take the lock, waiting while another living thread holds it.

        Args:
            blocking: False to return at once.
            timeout: seconds to wait at most; negative for ever.
        Returns:
            whether it was taken.
        """
        me = threading.current_thread()
        with self._changed:
            if self._owner is not me and self._is_taken() and not (blocking and self._wait(timeout)):
                return False
            if self._owner is not me:
                self._owner, self._depth = me, 0
            self._depth += 1
        return True

    def release(self, owner: threading.Thread | None = None) -> None:
        """Undo one `acquire`.

        Args:
            owner: the thread that took it, where that may not be the current one.
        Raises:
            RuntimeError: that thread does not hold the lock.
        """
        owner = owner or threading.current_thread()
        with self._changed:
            if self._owner is not owner:
                raise RuntimeError("The lock is held by another thread.")
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()

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
