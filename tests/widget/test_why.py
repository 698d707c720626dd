"""The request `why`: a cell's logit taken apart for the page, and edits of single heads that it asks for."""

import json

import pytest
from tiny import PROMPT, language_model, llama
from widget_pages import Page

import lenswidget as lw
from lenswidget.widget.widget import LensWidget


@pytest.fixture(scope="module")
def model():
    return language_model(llama)


@pytest.fixture
def page(model):
    return Page(LensWidget(model, PROMPT))


def why(page, run_id=None, **fields):
    asked = {
        "layer": 3,
        "position": 2,
        "lens": "logit",
        "token": 7,
        "foil": 9,
        "by": "part",
        "of_layer": None,
    }
    reply, _ = page.ask("why", run_id=run_id or page.widget.run["id"], **{**asked, **fields})
    return reply


def test_the_page_gets_the_terms_that_python_gets(page):
    found = why(page)["value"]
    json.dumps(found, allow_nan=False)
    own = lw.attribute(page.widget._session.run, 3, 2, token=7, foil=9)
    assert [term["name"] for term in found["terms"]] == list(own.names)
    assert [term["predicted"] for term in found["terms"]] == own.predicted.tolist()
    assert found["total"] + found["remainder"] == pytest.approx(found["before_cap"], abs=1e-12)
    assert (found["logit"], found["before"], found["cap"]) == (own.logit, None, None)
    assert (found["token"]["id"], found["foil"]["id"]) == (7, 9)


def test_one_layer_is_split_strongest_first(page):
    for by in ("head", "source", "neuron"):
        terms = why(page, by=by, of_layer=2)["value"]["terms"]
        assert {term["layer"] for term in terms} == {2}
        sizes = [abs(term["predicted"]) for term in terms]
        assert sizes == sorted(sizes, reverse=True)
        assert any(term["kind"] == by for term in terms)


def test_a_head_is_switched_off_by_the_page_and_the_effect_is_against_the_run_without(page):
    edit = {
        "op": "zero",
        "site": "attn_out",
        "layers": [1],
        "positions": [2],
        "tokens": [],
        "lens": "logit",
        "source": None,
        "heads": [1],
        "strength": 1.0,
        "is_on": True,
    }
    before = why(page)["value"]["logit"]
    first = page.widget.run["id"]
    page.ask("run", again=first, edits=[edit])
    (made,) = page.widget.edits
    assert (made.op, made.site, made.layers, made.positions, made.heads) == (
        "zero",
        "attn_out",
        (1,),
        (2,),
        (1,),
    )
    (told,) = page.widget.run["edits"]
    assert (told["heads"], told["neurons"]) == ([1], None)
    after = why(page)["value"]
    assert after["before"] == pytest.approx(before, abs=1e-6)
    assert after["logit"] != pytest.approx(before, abs=1e-4)
    head = next(t for t in why(page, by="head", of_layer=1)["value"]["terms"] if t["name"] == "L1 head 1")
    assert abs(head["predicted"]) < 1e-9
    again = LensWidget(page.widget._session._engine.model, state=page.widget.state)
    assert again.edits[0].heads == (1,)


def test_what_is_wrong_is_told_in_a_sentence(page):
    for fields, says in (
        ({"layer": 9}, "layer 9"),
        ({"by": "layer"}, "Use one of part, head"),
        ({"lens": "none"}, "No lens is called"),
        ({"token": "Paris"}, "field 'token'"),
        ({"of_layer": "2"}, "field 'of_layer'"),
        ({"foil": 7}, "are the same"),
    ):
        assert says in why(page, **fields)["error"]["message"], fields
    assert why(page)["value"]["terms"]
