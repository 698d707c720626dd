"""A page's end of a widget's messages, without a page."""

import itertools
import json


class Page:
    """Sends requests as a page does, and keeps what the kernel sends."""

    def __init__(self, widget):
        self.widget, self.sent, self.ids = widget, [], itertools.count()
        widget.send = self._take

    def _take(self, content, buffers=None):
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()  # as a kernel does
        self.sent.append((content, buffers))

    def ask(self, kind, **fields):
        request_id = f"test:{next(self.ids)}"
        self.widget._receive(self.widget, {"id": request_id, "kind": kind, **fields}, [])
        replies = [(c, b) for c, b in self.sent if c.get("id") == request_id and "kind" not in c]
        assert len(replies) == 1, "every request gets one reply"
        return replies[0]


def kept_by_the_page(w):
    """What a page has after all updates, by trait."""
    state = {}
    send = w.comm.send

    def kept(data, *rest, **more):
        is_told = data.get("method") in ("update", "echo_update")  # by Python, or by the page itself
        state.update(data.get("state", {}) if is_told else {})
        send(data, *rest, **more)

    w.comm.send = kept
    return state
