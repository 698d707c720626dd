"""What a page sends is checked, answered once, and changes nothing that it should not."""

import random

import pytest
from tiny import PROMPT, gpt2, language_model
from widget_pages import Page

from lenswidget.widget.widget import LensWidget


@pytest.fixture
def page():
    return Page(LensWidget(language_model(gpt2), PROMPT))


REFUSED = [
    {"site": "nonsense"},
    {"site": 3},
    {"lens": None},
    {"pins": [{}]},
    {"pins": [{"ids": [10**9], "label": "x", "color": 0}]},
    {"cards": [{"layer": 1}]},
    {"selection": {}},
    {"selection": {"layer": 99, "position": 0}},
    {"rank_token": -1},
    {"rank_token": "7"},
    {"trajectory": {"metric": "none"}},
    {"k": True},
    {"k": 0},
    {"hide_special": 1},
    {"metric": "loss"},
    {"prompt": ""},
    {"prompt": "Other"},
    {"run": {}},
    {"snapshot": {}},
    {"status": {"state": "offline"}},
    {"decoded": {"layer": 0}},
    {"_esm": "x"},
    {"no_such_trait": 1},
]


@pytest.mark.parametrize("state", REFUSED, ids=[repr(state)[:40] for state in REFUSED])
def test_a_trait_that_the_page_may_not_set_so_stays_as_it_was(page, state):
    widget = page.widget
    widget.selection = {"layer": 1, "position": 2}
    before = {name: getattr(widget, name) for name in widget.keys}
    widget.set_state(state)
    assert {name: getattr(widget, name) for name in widget.keys} == before
    refusals = [content for content, _ in page.sent if content.get("kind") == "refused"]
    assert [content["name"] for content in refusals] == list(state)
    assert refusals[0]["error"]["message"].strip()
    assert page.ask("ping")[0]["value"] == {}


def test_what_a_person_does_on_the_page_is_taken(page):
    widget = page.widget
    widget.set_state({"k": 7, "metric": "entropy", "selection": {"layer": 1, "position": 2}})
    assert (widget.k, widget.metric, widget.decoded["layer"]) == (7, "entropy", 1)
    assert not [content for content, _ in page.sent if content.get("kind") == "refused"]


def test_one_good_trait_among_bad_ones_is_taken(page):
    page.widget.set_state({"k": 7, "site": "nonsense"})
    assert (page.widget.k, page.widget.site) == (7, "resid_post")


@pytest.mark.parametrize("request_id", [None, 3, [], {}, True])
def test_a_request_without_an_id_of_text_gets_one_error(page, request_id):
    page.widget._receive(page.widget, {"id": request_id, "kind": "ping"}, [])
    assert len(page.sent) == 1
    assert "the id" in page.sent[0][0]["error"]["message"]


@pytest.mark.parametrize("target", [[], {}, None, 3])
def test_a_cancel_of_anything_but_an_id_gets_one_error(page, target):
    reply, _ = page.ask("cancel", target=target)
    assert "to cancel" in reply["error"]["message"]


@pytest.mark.parametrize("message", [None, [], "text", 3])
def test_a_message_that_is_not_a_request_gets_one_error(page, message):
    page.widget._receive(page.widget, message, [])
    assert [sorted(content) for content, _ in page.sent] == [["error", "id"]]


def test_an_interrupt_during_a_request_is_its_reply(page, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(page.widget._session, "search", interrupted)
    reply, _ = page.ask("search", text="a", k=3)
    assert reply["error"] == {"type": "Cancelled", "message": "The kernel was interrupted."}
    assert page.ask("ping")[0]["value"] == {}


def test_an_error_of_ours_is_named_as_internal_in_one_line(page, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(page.widget._session, "search", broken)
    reply, _ = page.ask("search", text="a", k=3)
    assert reply["error"] == {"type": "InternalError", "message": "Internal error: RuntimeError: first line"}
    assert "second line" in caplog.text


VALUES = [
    None,
    True,
    0,
    1,
    -1,
    3,
    10**12,
    0.5,
    "",
    "a",
    "resid_post",
    "logit",
    [],
    [0],
    [1, 2],
    [[]],
    {},
    {"a": 1},
]
FIELDS = ("run_id", "layers", "positions", "layer", "position", "site", "lens", "k", "track", "metrics")
MORE = ("temperature", "text", "prompt", "again", "target", "select")


def test_every_generated_message_gets_exactly_one_reply_and_changes_no_choice(page):
    """A seeded share of what `make torture` sends."""
    generator = random.Random(0)
    widget = page.widget
    names = widget.trait_names(is_choice=True)
    good = {"run_id": widget.run["id"], "layers": [0, 1], "positions": [0], "layer": 1, "position": 1, "k": 2}
    good |= {"site": "resid_post", "lens": "logit", "track": [], "metrics": [], "text": "a", "select": False}
    for _ in range(400):
        message = {
            "kind": generator.choice(["read", "decode", "search", "code", "ping", "cancel", "x", 3, []])
        }
        for name in (*FIELDS, *MORE):
            value = good.get(name) if generator.random() < 0.7 else generator.choice(VALUES)
            if generator.random() < 0.95:
                message[name] = value
        before = [getattr(widget, name) for name in names if name != "selection"]
        page.ask(**message)
        assert [getattr(widget, name) for name in names if name != "selection"] == before
        page.sent.clear()
