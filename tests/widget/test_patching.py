"""The second prompt of a widget, and the causal map that it gives."""

import json

import numpy as np
import pytest
import tiny
import torch
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import Cancelled, EditError, LensError, PromptError
from lenswidget.widget.export import static_state
from lenswidget.widget.packing import unpack

INTO = "The Eiffel Tower is in the city of"
SOURCE = "The Tower Eiffel is in the city of"


@pytest.fixture(scope="module")
def model():
    return tiny.language_model(tiny.llama)


@pytest.fixture
def page(model):
    return Page(lw.LensWidget(model, INTO))


def grids(causal):
    shape = (len(causal["layers"]), len(causal["positions"]))
    return [np.array(causal[name], float).reshape(shape) for name in ("estimate", "measured")]


def test_the_source_is_run_and_kept_whatever_else_is_shown(page):
    w = page.widget
    reply, _ = page.ask("source", prompt=SOURCE)
    run_id = reply["value"]["run_id"]
    assert (w.source, w.source_run["id"], w.source_run["prompt"]) == (SOURCE, run_id, SOURCE)
    for i in range(6):
        w.prompt = f"The city {i}"
    read = {"layers": [0], "positions": [0], "site": "resid_post", "lens": "logit", "k": 1, "track": []}
    reply, _ = page.ask("read", run_id=run_id, metrics=[], against=None, **read)
    assert "value" in reply
    with pytest.raises(PromptError):
        w.source = ""
    assert w.source_run["id"] == run_id
    page.ask("source", prompt=None)
    assert (w.source, w.source_run) == (None, {})


def log_probs(snapshot):
    """`[layers, positions, k]`."""
    return unpack(snapshot["header"], snapshot["buffers"])["log_probs"]


def test_the_second_prompt_is_in_the_state_and_in_the_saved_file(page, model, tmp_path):
    w = page.widget
    assert "source" not in w.state["recipe"]
    w.source = SOURCE
    found = w.source_snapshot
    assert found["header"]["run_id"] == w.source_run["id"]
    expected = lw.read(model.run(SOURCE, reuse=False))
    assert np.abs(log_probs(found).ravel() - expected.log_probs[:, : w.k].ravel()).max() < 1e-5
    w.k = 3
    assert log_probs(w.source_snapshot).shape[-1] == 3
    again = lw.LensWidget(model, state=json.loads(json.dumps(w.state)))
    assert (again.source, again.source_run["prompt"]) == (SOURCE, SOURCE)
    assert again.state["recipe"]["source"] == w.state["recipe"]["source"]
    stored = static_state(w, k=2)
    assert stored["source_snapshot"]["header"]["run_id"] == stored["source_run"]["id"]
    assert stored["source_snapshot"]["header"]["k"] == 2
    w.source = None
    assert w.source_snapshot == static_state(w)["source_snapshot"] == {}


def test_a_patch_from_the_source_says_where_it_is_taken(page, model):
    w = page.widget
    w.source = SOURCE
    patch = {
        "op": "patch",
        "site": "resid_post",
        "layers": [2],
        "positions": [5],
        "strength": 1.0,
        "is_on": True,
    }
    patch["source"] = {"run_id": w.source_run["id"], "layer": 1, "positions": [4]}
    page.ask("run", again=w.run["id"], edits=[patch])
    (edit,) = w.run["edits"]
    assert edit["taken"] == {"run_id": w.source_run["id"], "layers": [1], "positions": [4]}
    # by plain hooks: the source's stream after block 1 in place of that after block 2
    states, hf_model = [], model.hf_model
    take = hf_model.model.layers[1].register_forward_hook(lambda _m, _a, out: states.append(out))
    with torch.no_grad():
        hf_model(**model.tokenizer(SOURCE, return_tensors="pt"))
    take.remove()
    taken = (states[0][0] if isinstance(states[0], tuple) else states[0])[0, 4].detach()

    def put(_module, _args, out):
        changed = (out[0] if isinstance(out, tuple) else out).clone()
        changed[0, 5] = taken
        return (changed, *out[1:]) if isinstance(out, tuple) else changed

    handle = hf_model.model.layers[2].register_forward_hook(put)
    with torch.no_grad():
        logits = hf_model(**model.tokenizer(INTO, return_tensors="pt")).logits[0, -1].double()
    handle.remove()
    effect = w.run["edited"]["effect"]
    assert effect["after"] == pytest.approx(float(logits.log_softmax(-1)[effect["id"]]), abs=1e-5)


def test_the_map_of_the_page_is_that_of_causal_map(page, model):
    w = page.widget
    w.source = SOURCE
    seen = []
    w.observe(lambda change: seen.append(change["new"]), "causal")
    reply, _ = page.ask("map", answer=7, foil=9, site="resid_post", ablate=None)
    assert reply["value"] == {}
    found = lw.causal_map(model, SOURCE, INTO, answer=7, foil=9)
    estimate, measured = grids(w.causal)
    np.testing.assert_allclose(measured, found.denoising, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(estimate, found.estimate, rtol=1e-4, atol=1e-4)
    assert (w.view, w.causal["is_done"]) == ("map", True)
    assert w.causal["source_id"] == w.source_run["id"]
    # it is of this prompt, and goes with it; an edit of the same prompt leaves it
    w.edits = [lw.Edit("zero", layers=1, positions=-1)]
    assert w.causal["measured"]
    w.prompt = "Another city"
    assert w.causal == {}


def test_a_map_grows_from_its_estimate_coarse_to_fine(model, monkeypatch):
    w = lw.LensWidget(model, INTO)
    monkeypatch.setattr("lenswidget.widget.patch_traits.UPDATE_S", 0.0)
    monkeypatch.setattr("lenswidget.widget.patch_traits.CELLS_PER_S", 1e9)
    counts = []

    def grew(change):
        if change["new"]:
            estimate, measured = grids(change["new"]) if change["new"]["measured"] else (None, np.array([]))
            counts.append(int(np.isfinite(measured).sum()))
            assert estimate is None or np.isfinite(estimate).all()

    w.observe(grew, "causal")
    found = w.causal_map(SOURCE, answer=7, site="mlp_out")
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert counts[-1] == found.denoising.size
    assert np.isfinite(found.denoising).all()


def test_removals_need_no_source(model):
    w = lw.LensWidget(model, INTO)
    found = w.causal_map(answer=7, ablate="zero", site="mlp_out")
    expected = lw.causal_map(model, INTO, answer=7, ablate="zero", site="mlp_out")
    np.testing.assert_allclose(found.ablation, expected.ablation, atol=1e-5)
    assert (w.causal["ablate"], w.causal["source_id"]) == ("zero", None)
    json.dumps(w.causal, allow_nan=False)


def test_a_map_that_is_stopped_keeps_what_was_measured(model):
    w = lw.LensWidget(model, INTO)
    with pytest.raises(Cancelled):
        w.causal_map(SOURCE, answer=7, cancelled=lambda: True)
    estimate, _ = grids(w.causal) if w.causal["measured"] else (np.array(w.causal["estimate"], float), None)
    assert np.isfinite(estimate).all()
    assert w.causal["is_done"]


def test_what_does_not_fit_is_refused_and_the_grid_stays(page):
    w = page.widget
    before = w.run
    reply, _ = page.ask("map", answer=7, foil=None, site="resid_post", ablate=None)
    assert "Set w.source first" in reply["error"]["message"]
    with pytest.raises(EditError, match="equally long"):
        w.causal_map("The", answer=7)
    with pytest.raises(LensError, match="pass ids, integers"):
        w.causal_map(SOURCE, answer=10**6)
    for bad in ({"answer": "x"}, {"answer": 7, "foil": 1.5}, {"answer": 7, "ablate": 3}):
        reply, _ = page.ask("map", **{"foil": None, "site": "resid_post", "ablate": None, **bad})
        assert reply["error"]["type"] == "CellError"
    reply, _ = page.ask("source", prompt=3)
    assert reply["error"]["type"] == "CellError"
    assert (w.run, w.causal) == (before, {})
    pair = lw.CompareWidget(w._session._engine.model, INTO, SOURCE)
    with pytest.raises(EditError, match="takes no patches"):
        pair.source = SOURCE
    with pytest.raises(EditError, match="no causal map"):
        pair.causal_map(answer=7, ablate="zero")
