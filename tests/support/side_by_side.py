"""Works on threads of their own, which take turns as often as Python lets them."""

import sys
import threading
import traceback

SECONDS = 60


def together(*works, here=lambda: None):
    """Each work on a thread of its own, and one on this; fails where one does not end, or fails."""
    failures = []

    def watched(work):
        try:
            work()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=watched, args=(work,), daemon=True) for work in works]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        here()
        for thread in threads:
            thread.join(SECONDS)
    finally:
        sys.setswitchinterval(interval_s)
    assert not any(thread.is_alive() for thread in threads), "two threads wait for each other"
    assert failures == []
