"""A widget of a run with edits: before, after and difference, as traits, messages, state, code and file."""

import json

import numpy as np
import pytest
import tiny
import torch
import traitlets
from tiny import PROMPT, language_model, llama
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import CellError, EditError
from lenswidget.widget.export import static_state
from lenswidget.widget.kept_runs import MOST_RUNS
from lenswidget.widget.widget import LensWidget

ZERO = {"op": "zero", "site": "mlp_out", "layers": [1], "positions": [2], "strength": 1.0, "is_on": True}


@pytest.fixture(scope="module")
def model():
    return language_model(llama)


@pytest.fixture
def page(model):
    return Page(LensWidget(model, PROMPT))


def last_log_probs(model, prompt=PROMPT, **kwargs):
    """The model's own log-probs after the prompt, float64."""
    with torch.no_grad(), model.trace(prompt, use_cache=False, **kwargs) as tracer:
        return tracer.result.logits[0, -1].double().log_softmax(-1)


def read(page, run_id, against=None, **fields):
    asked = {"layers": [-1, 0, 1, 2, 3], "positions": [0, 1, 2, 3], "site": "resid_post", "lens": "logit"}
    asked |= {"k": 2, "track": [7], "metrics": []} | fields
    reply, buffers = page.ask("read", run_id=run_id, against=against, **asked)
    dtypes = {"int32": np.int32, "float32": np.float32, "uint8": np.uint8}
    return {
        spec["name"]: np.frombuffer(buffer, dtypes[spec["dtype"]]).reshape(spec["shape"])
        for spec, buffer in zip(reply["value"]["arrays"], buffers, strict=True)
    }


def test_setting_edits_runs_them_and_says_what_they_did(model):
    w = LensWidget(model, PROMPT)
    answer, before = w.run["next"]["id"], last_log_probs(model)
    heard = []
    w.observe(heard.append, "edits")
    edit = lw.Edit("zero", site="mlp_out", layers=1, positions=2)
    w.edits = [edit]
    assert w.edits == (edit,)
    assert [change["new"] for change in heard] == [(edit,)]
    edited = w.run["edited"]
    after = last_log_probs(model, edits=[edit])
    assert edited["effect"]["id"] == answer == int(before.argmax())
    assert edited["effect"]["before"] == pytest.approx(float(before[answer]), abs=1e-5)
    assert edited["effect"]["after"] == pytest.approx(float(after[answer]), abs=1e-5)
    assert edited["effect"]["control"] is None
    # rows of the embedding and layer 0, and positions before the edit above
    n_untouched = 2 * w._session.run.seq + 3 * 2
    assert edited["proof"] | {"text": ""} == {
        "ok": True,
        "n_untouched": n_untouched,
        "n_equal": n_untouched,
        "n_close": 0,
        "text": "",
    }
    (chip,) = w.run["edits"]
    assert (chip["op"], chip["layers"], chip["positions"], chip["is_on"]) == ("zero", [1], [2], True)
    w.edits = []
    assert w.run["edited"] is None
    assert w.run["edits"] == []


def test_an_edit_along_a_direction_has_its_control(model):
    edit = lw.Edit("steer", layers=2, positions=-1, tokens=9, strength=3.0)
    w = LensWidget(model, PROMPT, edits=[edit])
    effect = w.run["edited"]["effect"]
    expected = last_log_probs(model, edits=[edit.control()])
    assert effect["control"] == pytest.approx(float(expected[effect["id"]]), abs=1e-5)
    assert w.run["edited"]["control_id"] != w.run["edited"]["base_id"]


def test_the_page_edits_and_reads_before_after_and_the_difference(page, model):
    run_id = page.widget.run["id"]
    reply, _ = page.ask("run", again=run_id, edits=[ZERO])
    run = page.widget.run
    assert reply["value"]["run_id"] == run["id"]
    base_id = run["edited"]["base_id"]
    assert base_id == run_id  # the unedited run was there, and is not run again
    before, after = read(page, base_id), read(page, run["id"])
    both = read(page, run["id"], against=base_id)
    for name in ("ids", "tracked_ranks"):
        assert np.array_equal(both[name], after[name]), name
        assert np.array_equal(both[f"reference_{name}"], before[name]), name
    for name in ("log_probs", "tracked_log_probs"):
        # another tile: sums in another order
        np.testing.assert_allclose(both[name], after[name], atol=1e-5)
        np.testing.assert_allclose(both[f"reference_{name}"], before[name], atol=1e-5)
    kl = both["kl_from_reference"]
    untouched = np.zeros((5, 4), bool)
    untouched[:2], untouched[:, :2] = True, True
    assert (kl[untouched] == 0).all()
    assert kl[2:, 2].min() > 1e-6
    assert np.array_equal(
        both["reference_tracked_log_probs"][untouched], both["tracked_log_probs"][untouched]
    )
    # the last row against the model's own distributions
    with torch.no_grad():
        own = [
            t.result.logits[0, 3].double().log_softmax(-1)
            for kwargs in ({}, {"edits": page.widget.edits})
            for t in [model.trace(PROMPT, use_cache=False, **kwargs)]
            for t in [entered(t)]
        ]
    expected = float((own[0].exp() * (own[0] - own[1])).sum())
    assert kl[-1, -1] == pytest.approx(expected, abs=1e-5)


def entered(trace):
    """A trace that has run to its end."""
    with trace as tracer:
        _ = tracer.result
    return tracer


def test_the_page_changes_switches_off_and_removes_edits(page):
    page.ask("run", again=page.widget.run["id"], edits=[ZERO, {**ZERO, "op": "scale", "strength": 2.0}])
    first, second = page.widget.edits
    page.ask(
        "run",
        again=page.widget.run["id"],
        edits=[{"keep": 1, "strength": 3.0, "is_on": True}, {"keep": 0, "strength": 1.0, "is_on": False}],
    )
    assert [edit.op for edit in page.widget.edits] == ["scale", "zero"]
    assert (page.widget.edits[0].strength, page.widget.edits[1].is_on) == (3.0, False)
    page.ask("run", again=page.widget.run["id"], edits=[{"keep": 1, "strength": 1.0, "is_on": True}])
    assert page.widget.edits[0].op == "zero"
    assert page.widget.run["edited"]["proof"]["ok"]
    assert [first.op, second.op] == ["zero", "scale"]


def test_a_cell_of_an_earlier_prompt_is_patched_in(page, model):
    source = page.widget.run["id"]
    other = "Paris is the heart of France"
    page.ask("run", prompt=other)
    patch = {
        **ZERO,
        "op": "patch",
        "site": "resid_post",
        "layers": [2],
        "positions": [1],
        "source": {"run_id": source, "layer": 1, "positions": [3]},
    }
    reply, _ = page.ask("run", again=page.widget.run["id"], edits=[patch])
    assert "value" in reply, reply
    with torch.no_grad(), model.trace(PROMPT):
        row = model.layers[1].resid_post[0, 3].clone()
    run = page.widget._session.run
    assert torch.equal(run.states("resid_post", [2], [1])[0], row)
    assert page.widget.run["edits"][0]["source"].startswith("The Eiffel")


def test_a_prompt_that_is_typed_keeps_the_edits(page):
    page.ask("run", again=page.widget.run["id"], edits=[ZERO])
    page.ask("run", prompt="Paris is the heart of France")
    assert [edit.op for edit in page.widget.edits] == ["zero"]
    good = page.widget.run["id"]
    reply, _ = page.ask("run", prompt="P")
    assert (
        reply["error"]["message"] == "Asked to edit position 2 of 1 tokens. Use 0 to 0, or -1 for the last."
    )
    assert page.widget.run["id"] == good


BAD = [
    [{**ZERO, "op": "remove"}],
    [{**ZERO, "site": "nowhere"}],
    [{**ZERO, "layers": [99]}],
    [{**ZERO, "layers": []}],
    [{**ZERO, "positions": [99]}],
    [{**ZERO, "strength": "much"}],
    [{**ZERO, "strength": float("nan")}],
    [{**ZERO, "is_on": 1}],
    [{**ZERO, "op": "steer", "tokens": [10**9]}],
    [{**ZERO, "op": "steer", "tokens": [5], "lens": "none"}],
    [{**ZERO, "op": "swap", "tokens": [5, 5]}],
    [{**ZERO, "op": "patch", "source": {"run_id": "gone", "layer": 0, "positions": [0]}}],
    [{"keep": 7, "strength": 1.0, "is_on": True}],
    [{}],
    [3],
    "zero",
]


@pytest.mark.parametrize("edits", BAD, ids=[repr(bad)[-60:] for bad in BAD])
def test_a_bad_edit_is_one_sentence_and_the_last_good_grid_stays(page, edits):
    page.ask("run", again=page.widget.run["id"], edits=[ZERO])
    before = (page.widget.run, page.widget.edits)
    reply, _ = page.ask("run", again=page.widget.run["id"], edits=edits)
    assert reply["error"]["type"] in ("CellError", "EditError", "LensError", "AnatomyError")
    assert "\n" not in reply["error"]["message"]
    assert (page.widget.run, page.widget.edits) == before


def test_edits_from_python_that_do_not_fit_leave_the_widget_as_it_was(model):
    w = LensWidget(model, PROMPT, edits=lw.Edit("zero", layers=1))
    before = (w.run, w.edits)
    for bad in ("zero", [lw.Edit("zero", layers=9)], [lw.Edit("zero", positions=99)]):
        with pytest.raises(EditError):
            w.edits = bad
        assert (w.run, w.edits) == before
    w.set_state({"edits": []})
    assert w.edits == before[1]


def test_linked_widgets_have_the_same_edits(model):
    one, two = LensWidget(model, PROMPT), LensWidget(model, "Paris is the heart of France")
    traitlets.link((one, "edits"), (two, "edits"))
    one.edits = [lw.Edit("zero", layers=1, positions=0)]
    assert two.edits == one.edits
    assert two.run["edited"] is not None


def test_a_card_of_the_run_before_is_the_unedited_cells(page):
    page.ask("run", again=page.widget.run["id"], edits=[ZERO])
    asked = {"layer": 3, "position": 3, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    ids = [page.widget.run["edited"]["base_id"], page.widget.run["id"]]
    cards = [page.ask("decode", run_id=run_id, track=[], **asked)[0]["value"] for run_id in ids]
    assert cards[0]["log_probs"] != cards[1]["log_probs"]
    plain = read(page, ids[0], k=3)
    np.testing.assert_allclose(cards[0]["log_probs"], plain["log_probs"][-1, -1], atol=1e-5)


def edits_of_every_kind(model):
    other = model.run("Paris is the heart of France")
    return [
        lw.Edit("zero", site="mlp_out", layers=1, positions=[1, 2]),
        lw.Edit("mean", layers=0, positions=slice(1, None), texts=["Paris is", "The city"]),
        lw.Edit("scale", layers=1, positions=-1, strength=1.5),
        lw.Edit("steer", layers=[1, 2], positions="prompt", tokens=9, strength=0.5),
        lw.Edit("project_out", layers=2, positions=3, tokens=[7, 8]),
        lw.Edit("swap", layers=2, positions=2, tokens=[9, 10], is_live=True),
        lw.Edit("patch", layers=2, positions=1, source=other, from_layer=1, from_positions=3),
        lw.Edit("zero", layers=3, positions=0, is_on=False),
    ]


def test_copied_code_of_an_edited_card_gives_its_numbers(model):
    page = Page(LensWidget(model, PROMPT, edits=edits_of_every_kind(model)))
    asked = {"layer": 3, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    run_id = page.widget.run["id"]
    card = page.ask("decode", run_id=run_id, track=[], **asked)[0]["value"]
    code = page.ask("code", run_id=run_id, track=[], **asked)[0]["value"]["code"]
    names = {"model": model}
    exec(code, names)
    assert names["top"].indices.tolist() == card["ids"]
    torch.testing.assert_close(names["top"].values.log(), torch.tensor(card["log_probs"]), rtol=0, atol=1e-5)


def test_code_of_an_edit_that_cannot_be_written_down_asks_for_the_widgets(model):
    edit = lw.Edit("add", layers=1, vector=torch.ones(32))
    page = Page(LensWidget(model, PROMPT, edits=[edit]))
    asked = {"layer": 3, "position": 5, "site": "resid_post", "lens": "logit", "k": 3, "temperature": 1}
    code = page.ask("code", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]["code"]
    assert "# edits: those of the widget, w.edits\n" in code
    names = {"model": model, "edits": page.widget.edits}
    exec(code, names)
    card = page.ask("decode", run_id=page.widget.run["id"], track=[], **asked)[0]["value"]
    assert names["top"].indices.tolist() == card["ids"]


def test_state_brings_the_edits_back(model):
    given = [
        *edits_of_every_kind(model),
        lw.Edit("add", layers=0, positions=1, vector=torch.linspace(0, 1, 32)),
    ]
    w = LensWidget(model, PROMPT, edits=given)
    state = json.loads(json.dumps(w.state))
    again = LensWidget(model, state=state)
    assert [repr(e)[:30] for e in again.edits] == [repr(e)[:30] for e in w.edits]
    one, two = (each._session.run.states("resid_post", [3] * 3, [0, 3, 6]) for each in (w, again))
    assert torch.equal(one, two)
    bad = {**state, "recipe": {**state["recipe"], "edits": [{"op": "zero", "colour": 3}]}}
    with pytest.raises(EditError, match=r"Pass w\.state"):
        LensWidget(model, state=bad)


def test_a_saved_file_holds_both_runs(model):
    w = LensWidget(model, PROMPT, edits=[lw.Edit("zero", layers=1, positions=2)])
    header = static_state(w)["snapshot"]["header"]
    assert header["against"] == w.run["edited"]["base_id"]
    names = {spec["name"] for spec in header["arrays"]}
    assert {"reference_ids", "reference_log_probs", "kl_from_reference"} <= names
    assert set(map(int, header["labels"])) >= {w.run["edited"]["effect"]["id"]}


def test_runs_that_are_compared_are_kept_together(model):
    w = LensWidget(model, PROMPT, edits=[lw.Edit("steer", layers=1, tokens=9)])
    for i in range(MOST_RUNS + 3):
        w.edits = [lw.Edit("steer", layers=1, tokens=9, strength=1.0 + i)]
    kept = w._session._runs
    edited = w.run["edited"]
    assert {w.run["id"], edited["base_id"], edited["control_id"]} <= set(kept)
    assert len(kept) <= 3 + MOST_RUNS
    with pytest.raises(CellError, match="no longer kept"):
        w._session.spec_of("gone")


def test_a_batch_of_hooks_is_gone_when_a_widget_has_run(model):
    n_hooks = tiny.n_hooks(model.hf_model)
    LensWidget(model, PROMPT, edits=edits_of_every_kind(model))
    assert tiny.n_hooks(model.hf_model) == n_hooks
