"""Two runs on one grid: the page has the numbers of `lenswidget.compare`, whose own are checked elsewhere."""

import json
import warnings

import numpy as np
import pytest
import tiny
import traitlets
from widget_pages import Page

import lenswidget as lw
from lenswidget.errors import CellError, EditError, LensError
from lenswidget.widget.export import static_state

A = "The Eiffel Tower is in the city of"
B = "The Tower is in the heart of France"


def read(page, against=True, **fields):
    run = page.widget.run
    seq, n_layers = len(run["tokens"]), run["n_layers"]
    base = run["compared"]["base"]["id"]
    asked = {"layers": list(range(-1, n_layers)), "positions": list(range(seq)), "site": "resid_post"}
    asked |= {"lens": "logit", "k": 3, "track": [7], "metrics": ["entropy"], "run_id": run["id"]}
    reply, buffers = page.ask("read", **{**asked, "against": base if against else None, **fields})
    dtypes = {"int32": np.int32, "float32": np.float32, "uint8": np.uint8}
    return {
        spec["name"]: np.frombuffer(buffer, dtypes[spec["dtype"]]).reshape(spec["shape"])
        for spec, buffer in zip(reply["value"]["arrays"], buffers, strict=True)
    }


def check(page, found):
    """What the page is told of a pair against the comparison of the same pair."""
    arrays = read(page)
    missing = found.grid("is_missing")
    for name, other in (
        ("kl_from_reference", "kl_to_b"),
        ("kl_to_reference", "kl_to_a"),
        ("js_reference", "js"),
    ):
        np.testing.assert_allclose(arrays[name], found.grid(other), rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.isnan(arrays[name][missing]).all()
    for prefix, side in (("reference_", "a"), ("", "b")):
        lacks = found.grid(f"{side}.positions") < 0
        ids = arrays[f"{prefix}ids"]
        assert (ids[lacks] == -2).all()
        np.testing.assert_array_equal(ids[~lacks], found.grid(f"{side}.ids")[~lacks][:, :3])
        np.testing.assert_allclose(
            arrays[f"{prefix}tracked_log_probs"], found.grid(f"{side}.tracked_log_probs"), atol=1e-6
        )
    # and each side read by itself is the same
    base = page.widget.run["compared"]["base"]["id"]
    np.testing.assert_array_equal(read(page, against=False)["ids"], arrays["ids"])
    np.testing.assert_array_equal(read(page, against=False, run_id=base)["ids"], arrays["reference_ids"])
    return arrays


def test_the_page_has_the_numbers_of_both_prompts_and_their_difference():
    model = tiny.language_model()
    page = Page(w := lw.CompareWidget(model, A, B))
    assert w.view == "difference"
    found = lw.compare(model, A, B, track=[7])
    check(page, found)
    compared, columns = w.run["compared"], found.alignment.columns
    for letter, side in (("a", 0), ("b", 1)):
        assert compared[f"has_{letter}"] == (columns[:, side] >= 0).tolist()
        run = (compared["base"], w.run)[side]
        ids = model.tokenizer(A if letter == "a" else B)["input_ids"]
        assert run["tokens"] == [-1 if i < 0 else ids[i] for i in columns[:, side]]
        assert run["next"]["id"] == found.grid(f"{letter}.ids")[-1, np.argmax(columns[:, side]), 0]
    frame = w.to_dataframe(track=[7])
    assert frame.equals(found.to_dataframe())


def test_models_of_unlike_depth_stand_row_by_row_at_their_relative_depth():
    base, deep = tiny.language_model(tiny.llama), tiny.language_model(lambda: tiny.llama(num_hidden_layers=7))
    page = Page(w := lw.CompareWidget(base, deep, A))
    assert w.run["n_layers"] == w.run["compared"]["base"]["n_layers"] == base.anatomy.n_layers
    check(page, lw.compare(base, deep, A, track=[7]))
    assert [row["name"] for row in w.run["rows"]][-1] == f"{base.anatomy.n_layers - 1} | 6"


def test_an_adapter_off_and_on(recwarn):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False)
        adapted = peft.get_peft_model(tiny.gpt2(), config).eval()
    model = lw.LanguageModel(adapted, tiny.tokenizer())
    page = Page(w := lw.CompareWidget(model, A))
    check(page, lw.compare(model, A, track=[7]))
    w.prompt = B
    check(page, lw.compare(model, B, track=[7]))
    reply, _ = page.ask("code", run_id=w.run["compared"]["base"]["id"], layer=1, position=2, k=3,
                        site="resid_post", lens="logit", track=[], temperature=1.0)  # fmt: skip
    assert "without the adapter" in reply["error"]["message"]


def test_a_card_has_the_cell_of_both_sides():
    model = tiny.language_model()
    page = Page(w := lw.CompareWidget(model, A, B))
    columns = lw.compare(model, A, B).alignment.columns
    at = int(np.flatnonzero((columns >= 0).all(1))[-1])
    w.selection = {"layer": 2, "position": at}
    card = w.decoded
    for side, (prompt, told) in enumerate(((A, card["beside"]), (B, card))):
        own = lw.decode(model.run(prompt), 2, int(columns[at, side]), k=len(told["ids"]))
        assert told["ids"] == own.ids
        np.testing.assert_allclose(told["log_probs"], own.log_probs, atol=1e-6)
        assert (told["layer"], told["position"]) == (2, at)
    assert card["side"] == 1
    # the other side says what it thinks of this side's tokens
    expected = lw.read(model.run(A), [(2, int(columns[at, 0]))], track=card["ids"])
    told = [token["log_prob"] for token in card["beside"]["tracked"]]
    np.testing.assert_allclose(told, expected.tracked_log_probs[0], atol=1e-5)
    # a column of one side
    alone = int(np.flatnonzero(columns[:, 0] < 0)[0])
    w.selection = {"layer": 2, "position": alone}
    assert w.decoded["beside"] is None
    lacked = int(np.flatnonzero(columns[:, 1] < 0)[0])
    with pytest.raises(CellError, match="lacks"):
        w.selection = {"layer": 2, "position": lacked}
    assert w.selection == {"layer": 2, "position": alone}
    base = w.run["compared"]["base"]["id"]
    fields = {"layer": 2, "position": lacked, "site": "resid_post", "lens": "logit", "k": 3, "track": []}
    reply, _ = page.ask("decode", run_id=base, temperature=1.0, select=False, **fields)
    own = lw.decode(model.run(A), 2, int(columns[lacked, 0]), k=3)
    assert (reply["value"]["side"], reply["value"]["ids"]) == (0, own.ids)


def test_copied_code_of_either_side_gives_its_card():
    model = tiny.language_model()
    page = Page(w := lw.CompareWidget(model, A, B))
    at = int(np.flatnonzero((lw.compare(model, A, B).alignment.columns >= 0).all(1))[-1])
    fields = {"layer": 1, "position": at, "site": "resid_post", "lens": "logit", "k": 3, "track": []}
    for run_id in (w.run["id"], w.run["compared"]["base"]["id"]):
        card, _ = page.ask("decode", run_id=run_id, temperature=1.0, select=False, **fields)
        code, _ = page.ask("code", run_id=run_id, temperature=1.0, **fields)
        assert "error" not in code, code
        assert "error" not in card, card
        there = {"model": model}
        exec(code["value"]["code"], there)
        assert there["top"].indices.tolist() == card["value"]["ids"]


def test_another_prompt_runs_the_second_side_and_the_first_stays():
    model = tiny.language_model()
    page = Page(w := lw.CompareWidget(model, A, B))
    late = w.run["id"]
    other = "The city of Paris"
    reply, _ = page.ask("run", prompt=other)
    assert reply["value"]["run_id"] == w.run["id"] != late
    check(page, lw.compare(model, A, other, track=[7]))
    assert w.prompt == other
    # a late request for the earlier pair is answered on its own columns
    reply, _ = page.ask("read", run_id=late, layers=[0], positions=[0], site="resid_post", lens="logit", k=1,
                        track=[], metrics=[], against=None)  # fmt: skip
    assert "value" in reply


def test_state_code_and_file_keep_both_sides():
    model = tiny.language_model()
    w = lw.CompareWidget(model, A, B, difference="js")
    again = lw.CompareWidget(model, state=json.loads(json.dumps(w.state)))
    assert (again.difference, again.view, again.run["tokens"]) == ("js", "difference", w.run["tokens"])
    assert again.run["compared"]["base"]["tokens"] == w.run["compared"]["base"]["tokens"]
    state = static_state(w, k=3)
    names = {spec["name"] for spec in state["snapshot"]["header"]["arrays"]}
    assert {"ids", "reference_ids", "kl_from_reference", "kl_to_reference", "js_reference"} <= names
    assert state["snapshot"]["header"]["against"] == w.run["compared"]["base"]["id"]
    assert "<table>" in w._repr_mimebundle_()[0]["text/html"]


def test_runs_that_were_given_are_shown_with_their_edits_and_run_nothing_else():
    model = tiny.language_model()
    edited = model.run(A, edits=[lw.Edit("zero", layers=1, positions=-1)])
    page = Page(w := lw.CompareWidget(model.run(A), edited))
    found = lw.compare(model.run(A), edited, track=[7])
    check(page, found)
    assert np.nanmax(found.js) > 0
    before = w.run
    with pytest.raises(LensError, match="only a run was given"):
        w.prompt = B
    assert w.run is before
    assert w.state["recipe"] is None


def test_what_does_not_fit_is_refused_and_the_grid_stays():
    model = tiny.language_model()
    w = lw.CompareWidget(model, A, B)
    before = w.run
    with pytest.raises(EditError, match="A comparison takes no edits"):
        w.edits = [lw.Edit("zero", layers=1, positions=-1)]
    with pytest.raises(traitlets.TraitError):
        w.view = "c"
    assert w.run is before
    with pytest.raises(LensError, match="two prompts"):
        lw.CompareWidget(model)
    with pytest.raises(LensError, match="models alone"):
        lw.CompareWidget(model, A, state=w.state)
    small = tiny.language_model(lambda: tiny.llama(vocab_size=320))
    with pytest.raises(LensError, match="whose vocabularies differ"):
        lw.CompareWidget(model, small, A)
