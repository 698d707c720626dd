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


def code_of(page, **fields):
    asked = {"layer": 3, "position": 2, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1.0}
    reply, _ = page.ask("code", run_id=page.widget.run["id"], track=[], **{**asked, **fields})
    return reply["value"]["code"]


def test_copied_code_takes_the_logit_apart_as_the_card_does(model, capsys):
    edit = lw.Edit("zero", site="attn_out", layers=1, positions=2, heads=[1])
    page = Page(LensWidget(model, PROMPT, edits=[edit]))
    found = why(page)["value"]
    names = {"model": model}
    exec(code_of(page, why={"token": 7, "foil": 9, "of_layer": 2}), names)
    assert names["why"].predicted.tolist() == [term["predicted"] for term in found["terms"]]
    told = capsys.readouterr().out
    assert "by part" in told
    assert all(f"by {by}" in told for by in ("head", "source", "neuron"))
    # one run for that and for the word that stands in the cell
    code = code_of(page, show="words", why={"token": 7, "foil": None, "of_layer": None})
    assert code.count("model.run(") == 1
    assert "foil" not in code
    exec(code, {"model": model})
    assert "lw.attribute" not in code_of(page)
    assert "lw.attribute" not in code_of(page, site="mlp_out", why={"token": 7, "foil": 9, "of_layer": 2})


def test_a_file_has_why_of_the_selected_cell_and_of_kept_cards(model):
    w = LensWidget(model, PROMPT)
    w.selection = {"layer": 3, "position": 2}
    w.cards = [
        {"layer": 2, "position": 4, "site": "resid_post", "lens": "logit"},
        {"layer": 2, "position": 1, "site": "mlp_out", "lens": "logit"},
    ]
    stored = w.stored_whys()
    json.dumps(stored, allow_nan=False)
    asked = [(each["layer"], each["position"], each["by"]) for each in stored]
    cells = [(3, 2), (2, 4)]
    assert asked == [(*cell, by) for cell in cells for by in ("part", "head", "source", "neuron")]
    assert stored[0]["token"]["id"] == lw.decode(w._session.run, 3, 2, k=1).ids[0]
    page = Page(w)
    token = stored[0]["token"]["id"]
    assert stored[0] == why(page, token=token, foil=None)["value"]
    for by, n in (("head", 8), ("source", 5)):
        live = why(page, token=token, foil=None, by=by, of_layer=2)["value"]["terms"]
        kept = next(each for each in stored if each["by"] == by)
        of_layer = [term for term in kept["terms"] if term["layer"] == 2]
        # one forward for all layers and one for each: rounding
        strongest = [term for term in live if term["kind"] == by][:n]
        assert [term["name"] for term in of_layer] == [term["name"] for term in strongest]
    w.pins = [{"ids": [i], "label": str(i), "color": i} for i in (7, 9, 11, 13)]
    targets = [(each["token"]["id"], each["foil"] and each["foil"]["id"]) for each in w.stored_whys()]
    assert targets[:5] == [(7, None), (9, None), (7, 9), (11, None), (7, 11)]
    assert 13 not in {token for token, _ in targets}


def test_a_file_of_a_model_that_cannot_be_taken_apart_has_none():
    import transformers as hf
    from tiny_models import tiny_config, tiny_model

    w = LensWidget(lw.LanguageModel(tiny_model(tiny_config(hf.BertConfig))), [11, 12, 13])
    w.selection = {"layer": 1, "position": 1}
    assert w.stored_whys() == []


def test_the_page_gets_where_the_attention_looks(page):
    reply, _ = page.ask("attention", run_id=page.widget.run["id"], layer=2, position=3)
    found = reply["value"]
    json.dumps(found, allow_nan=False)
    own = lw.attention(page.widget._session.run, 2, 3)
    assert found["weights"] == own.weights.round(4).tolist()
    assert found["sinks"] == own.sinks
    sizes = own.value_weighted.sum(0)
    assert found["read"] == (sizes / sizes.sum()).round(4).tolist()
    assert sum(found["read"]) == pytest.approx(1, abs=1e-3)
    reply, _ = page.ask("attention", run_id=page.widget.run["id"], layer=-1, position=3)
    assert "embedding, which has none" in reply["error"]["message"]
