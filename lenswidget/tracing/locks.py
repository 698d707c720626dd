"""One lock per model, held while a thread runs it, traces it or reads through it."""

import os
import queue
import threading
import time
import weakref
from typing import Any

from torch import nn

# How long a waiting thread sleeps before it looks whether the owner has died.
_LOOK_S = 0.2


class ModelLock:
    """A reentrant lock that is freed when its owner thread dies.

    Used like a `threading.RLock`. A trace left open in a generator may be closed on another thread than
    the one that opened it, or never; an `RLock` would then stay locked for ever.
    """

    def __init__(self) -> None:
        # a plain lock and a queue are left clean by an interrupt, which a `threading.Condition` is not
        self._guard = threading.Lock()
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()
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
        end_s = time.monotonic() + timeout
        while not self._take(holder):
            remaining_s = _LOOK_S if timeout < 0 else end_s - time.monotonic()
            if not blocking or remaining_s <= 0:
                return False
            try:
                self._freed.get(timeout=min(_LOOK_S, remaining_s))
            except queue.Empty:
                continue
        return True

    def release(self) -> None:
        """Undo one `acquire` of this thread.

        Raises:
            RuntimeError: this thread does not hold the lock.
        """
        with self._guard:
            if self._owner is not threading.current_thread() or not self._holders:
                raise RuntimeError("The lock is not held by this thread.")
            self._holders.pop()
        self._notify()

    def release_all(self, holder: object) -> None:
        """Undo what was acquired for a holder, on any thread; if nothing was, do nothing."""
        with self._guard:
            self._holders = [one for one in self._holders if one is not holder]
        self._notify()

    def renew(self) -> None:
        """Replace what another thread may have held while the process was forked; for the child."""
        self._guard = threading.Lock()
        self._freed = queue.SimpleQueue()

    def __enter__(self) -> bool:
        holder = object()
        try:
            return self.acquire(holder=holder)
        except BaseException:  # an interrupt
            self.release_all(holder)
            raise

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _take(self, holder: object) -> bool:
        me = threading.current_thread()
        with self._guard:
            if self._owner is me:
                self._holders.append(holder)
            elif not self._holders or self._owner is None or not self._owner.is_alive():
                self._owner, self._holders = me, [holder]
            else:
                return False
        return True

    def _notify(self) -> None:
        if not self._holders and self._freed.empty():
            self._freed.put(None)


_locks: "weakref.WeakKeyDictionary[nn.Module, ModelLock]" = weakref.WeakKeyDictionary()
_registry = threading.Lock()
_knows_forks = False


def lock_of(module: nn.Module) -> ModelLock:
    """The lock of a model: the same one for every object that traces it."""
    global _knows_forks
    with _registry:
        if not _knows_forks and hasattr(os, "register_at_fork"):  # not at import, which changes nothing
            os.register_at_fork(after_in_child=_after_fork)
            _knows_forks = True
        lock = _locks.get(module)
        if lock is None:
            lock = _locks[module] = ModelLock()
        return lock


def _after_fork() -> None:
    """In the child, where the other threads are gone: replace the locks that they may have held."""
    global _registry
    _registry = threading.Lock()
    for lock in list(_locks.values()):
        lock.renew()
