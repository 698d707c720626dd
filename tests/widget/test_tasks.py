"""Requests in slices: one reply each, whatever happens."""

import asyncio

import pytest

from lenswidget.errors import CellError
from lenswidget.progress import drain
from lenswidget.widget.host import takes_turns
from lenswidget.widget.tasks import Tasks


class Sink:
    def __init__(self):
        self.replies, self.progress = [], []
        self.tasks = Tasks(
            lambda i, **outcome: self.replies.append((i, outcome)), lambda *step: self.progress.append(step)
        )


def counting(n, fail_at=None):
    for i in range(n):
        if i == fail_at:
            raise CellError("no such cell")
        yield i, n
    return n


def test_without_a_loop_a_request_runs_through():
    sink = Sink()
    sink.tasks.start("a", counting(3))
    assert sink.replies == [("a", {"value": 3})]
    assert [step[1:] for step in sink.progress] == [(0, 3), (1, 3), (2, 3)]


def test_an_error_is_the_reply():
    sink = Sink()
    sink.tasks.start("a", counting(3, fail_at=1))
    assert sink.replies == [("a", {"error": {"type": "CellError", "message": "no such cell"}})]


def test_a_cancel_arrives_between_slices():
    async def main():
        sink = Sink()
        sink.tasks.start("long", counting(10_000))
        sink.tasks.start("other", counting(2))
        await asyncio.sleep(0.02)
        sink.tasks.cancel("long")
        sink.tasks.cancel("unknown")
        await asyncio.sleep(0.05)
        return sink

    sink = asyncio.run(main())
    replies = dict(sink.replies)
    assert replies["other"] == {"value": 2}
    assert replies["long"]["error"]["type"] == "Cancelled"
    assert len(sink.replies) == 2


@pytest.mark.parametrize("n", [0, 1, 5])
def test_drain_gives_the_value(n):
    assert drain(counting(n)) == n


def test_where_messages_wait_for_the_page_a_request_runs_through_at_once():
    """As in Shiny, whose messages leave when it has handled what the page sent."""

    async def main():
        sink = Sink()
        comm = type("ShinyComm", (), {"__module__": "shinywidgets._comm"})()
        sink.tasks._takes_turns = lambda: takes_turns(comm)
        sink.tasks.start("long", counting(50))
        assert dict(sink.replies) == {"long": {"value": 50}}

    asyncio.run(main())
    assert takes_turns(object())
