"""The widget takes over what another prompt shares with the one it shows."""

import asyncio
import json

import numpy as np
import pytest
from makes import made
from tiny import PROMPT, language_model
from widget_pages import Page

import lenswidget as lw


@pytest.fixture(scope="module")
def model():
    return language_model()


def test_another_end_of_the_prompt_takes_the_beginning_over(model):
    w = model.lens(PROMPT)
    first = w.run["id"]
    before = w.readout()
    w.prompt = PROMPT + " Paris"
    reuse = w.run["reuse"]
    assert reuse["run_id"] == first
    assert reuse["n_columns"] == len(model.tokenize(PROMPT)["input_ids"][0])
    assert "taken over" in reuse["text"]
    after = w.readout()
    n = reuse["n_columns"]
    assert (after.grid("log_probs")[:, :n] == before.grid("log_probs")[:, :n]).all()
    whole = lw.read(model.run(PROMPT + " Paris", reuse=False))
    assert np.abs(after.log_probs - whole.log_probs).max() < 1e-4


def test_a_prompt_that_was_shown_before_takes_its_earlier_run_over(model):
    w = model.lens(PROMPT + " Paris")
    first, before = w.run["id"], w.readout()
    w.prompt = PROMPT + " Rome"
    w.prompt = PROMPT + " Paris"
    reuse = w.run["reuse"]
    assert (reuse["run_id"], reuse["n_columns"]) == (first, len(w.run["tokens"]) - 1)
    after = w.readout()
    assert (after.ids == before.ids).all()
    assert np.abs(after.log_probs - before.log_probs).max() < 1e-4
    # the one that is shown, run again: who asks for that wants it run
    Page(w).ask("run", again=w.run["id"])
    assert w.run["reuse"]["run_id"] is None


def test_reuse_can_be_switched_off(model):
    w = model.lens(PROMPT)
    w.reuse = False
    w.prompt = PROMPT + " Paris"
    assert w.run["reuse"] == {"run_id": None, "n_columns": 0, "text": "Run whole."}
    assert w.state["reuse"] is False
    assert model.lens(state=w.state).reuse is False


def test_edits_take_over_the_run_without_them_and_the_proof_holds():
    model = made("sequential")
    w = model.lens(list(range(3, 35)))
    base = w.run["id"]
    w.edits = [lw.Edit("steer", layers=1, positions=-1, tokens=7)]
    assert w.run["edited"]["base_id"] == base
    assert w.run["reuse"]["run_id"] == base
    assert w.run["reuse"]["n_columns"] == 31
    proof = w.run["edited"]["proof"]
    assert proof["ok"]
    assert proof["n_equal"] == proof["n_untouched"]
    w.edits = [lw.Edit("steer", layers=1, positions=-1, tokens=7, strength=2.0)]
    assert w.run["edited"]["base_id"] == base
    # another prompt under the same edits, which begin at another column
    w.prompt = list(range(3, 37))
    assert w.run["reuse"]["n_columns"] > 0
    assert w.run["edited"]["proof"]["ok"]


def test_an_early_edit_after_a_prompt_that_was_run_in_part_is_still_proven():
    model = made("sequential")
    w = model.lens(list(range(3, 35)))
    w.prompt = list(range(3, 37))
    w.edits = [lw.Edit("zero", layers=1, positions=2)]
    assert w.run["reuse"]["n_columns"] == 0
    assert w.run["edited"]["proof"]["ok"]


# --- generating


def test_generate_shows_each_column_and_then_all(model):
    w = model.lens(PROMPT)
    ids = w.run["tokens"]
    seen = []
    w.observe(lambda change: seen.append(len(change["new"]["tokens"])), "run")
    text = w.generate(4)
    assert seen == [len(ids) + i for i in range(1, 5)]
    assert w.run["tokens"][: len(ids)] == ids
    assert text == model.tokenizer.decode(w.run["tokens"][len(ids) :])
    assert w.prompt == w.run["tokens"]
    # the whole grid is in the snapshot again
    assert w.snapshot["header"]["positions"] == list(range(len(ids) + 4))
    whole = lw.read(model.run(w.prompt, reuse=False))
    assert np.abs(w.readout().log_probs - whole.log_probs).max() < 1e-4


def test_the_state_holds_how_the_prompt_was_generated(model):
    w = model.lens(PROMPT)
    n = len(w.run["tokens"])
    w.generate(3, temperature=0.7, top_p=0.9, seed=5)
    sampling = {"n_prompt": n, "temperature": 0.7, "top_p": 0.9, "seed": 5}
    assert w.state["recipe"]["sampling"] == sampling
    again = model.lens(state=json.loads(json.dumps(w.state)))
    assert again.state == w.state
    assert again.run["tokens"] == w.run["tokens"]
    w.selection = {"layer": 2, "position": n}
    page = Page(w)
    reply, _ = page.ask("code", run_id=w.run["id"], layer=2, position=n, site="resid_post", lens="logit", k=3)
    assert (
        f"# tokens from {n} on were generated with temperature=0.7, top_p=0.9, seed=5"
        in reply["value"]["code"]
    )


def test_a_page_is_told_of_each_token_and_gets_one_reply(model):
    w = model.lens(PROMPT)
    n = len(w.run["tokens"])
    page = Page(w)
    reply, _ = page.ask("generate", n_tokens=3)
    assert reply["value"] == {"run_id": w.run["id"]}
    told = [c["done"] for c, _ in page.sent if c.get("kind") == "progress"]
    assert sorted(set(told)) == [1, 2, 3]
    assert len(w.run["tokens"]) == n + 3
    for fields in ({"n_tokens": 0}, {"n_tokens": 10**6}, {"temperature": "hot"}, {"top_p": 2.0}):
        reply, _ = page.ask("generate", **fields)
        assert reply["error"]["type"] in ("CellError", "LensError")
    assert len(w.run["tokens"]) == n + 3


def test_a_page_can_stop_it_and_keeps_what_came(model):
    async def generate_and_cancel():
        w = model.lens(PROMPT)
        n = len(w.run["tokens"])
        page = Page(w)
        w._receive(w, {"id": "g", "kind": "generate", "n_tokens": 40}, [])
        while len(w.run["tokens"]) < n + 3:
            await asyncio.sleep(0.001)
        w._receive(w, {"id": "c", "kind": "cancel", "target": "g"}, [])
        for _ in range(20):
            await asyncio.sleep(0.001)
        replies = [c for c, _ in page.sent if c.get("id") == "g" and "kind" not in c]
        assert [reply["error"]["type"] for reply in replies] == ["Cancelled"]
        assert n + 3 <= len(w.run["tokens"]) < n + 8
        assert len(w.snapshot["header"]["positions"]) == len(w.run["tokens"])
        # and it goes on from there
        before = w.run["tokens"]
        w.generate(1)
        assert w.run["tokens"][:-1] == before
        assert w.run["reuse"]["n_columns"] == len(before)

    asyncio.run(generate_and_cancel())


def test_another_prompt_stops_a_generation(model):
    async def generate_and_run():
        w = model.lens(PROMPT)
        page = Page(w)
        w._receive(w, {"id": "g", "kind": "generate", "n_tokens": 40}, [])
        await asyncio.sleep(0.01)
        w.prompt = "The city"
        for _ in range(20):
            await asyncio.sleep(0.001)
        replies = [c for c, _ in page.sent if c.get("id") == "g" and "kind" not in c]
        assert replies[0]["error"]["message"] == "Another run or comparison came meanwhile, and is shown."
        assert w.prompt == "The city"
        assert w.run["tokens"] == model.tokenizer("The city")["input_ids"]

    asyncio.run(generate_and_run())


def test_edits_go_on_at_generated_positions_and_are_compared_at_the_end():
    model = made("sequential")
    w = model.lens(list(range(3, 15)))
    w.edits = [lw.Edit("steer", layers=1, tokens=7, strength=0.5)]
    w.generate(3)
    assert w.run["edited"]["proof"]["ok"]
    assert [edit.positions for edit in w.edits] == [tuple(range(12)), 12, 13, 14]
    base = w._session.run_of(w.run["edited"]["base_id"])
    assert base.token_ids.tolist() == w.run["tokens"]
    assert not base.spec.active_edits


# --- the spine


def test_the_spine_is_there_while_it_is_open_and_follows_each_token(model):
    w = model.lens(PROMPT)
    assert w.spine == {}
    w.show_spine = True
    n = len(w.run["tokens"])
    assert w.spine["run_id"] == w.run["id"]
    before = w.spine["surprise"]
    w.generate(2)
    assert w.spine["run_id"] == w.run["id"]
    assert w.spine["surprise"][:n] == before
    whole = lw.spine(model.run(w.prompt, reuse=False))
    np.testing.assert_allclose(w.spine["surprise"][1:], whole.surprise_nats[1:], rtol=0, atol=1e-3)
    np.testing.assert_allclose(w.spine["entropy"][1:], whole.entropy_nats[1:], rtol=0, atol=1e-3)
    # a prompt that differs in the middle: its first columns have the numbers that they had
    w.prompt = [*w.run["tokens"][: n - 2], 9, 9]
    assert w.spine["surprise"][: n - 2] == before[: n - 2]
    again = model.lens(state=json.loads(json.dumps(w.state)))
    np.testing.assert_allclose(again.spine["surprise"][1:], w.spine["surprise"][1:], rtol=0, atol=1e-3)


def test_the_page_asks_for_the_spine_of_a_long_prompt_and_a_file_has_it(model, tmp_path):
    w = model.lens(list(range(3, 53)), show_spine=True)
    assert w.spine == {}
    reply, _ = Page(w).ask("spine")
    assert reply["value"] == {}
    assert len(w.spine["surprise"]) == 50
    assert w.spine["surprise"][0] is None
    w.show_spine = False
    text = w.save(tmp_path / "file.html").read_text(encoding="utf-8")
    assert json.dumps(w.spine["surprise"][1:4], separators=(",", ":"))[1:-1] in text


# --- branches


def test_forks_make_a_tree_each_of_which_can_be_shown_again(model):
    w = model.lens(PROMPT)
    first, ids = w.run["id"], list(w.run["tokens"])
    assert w.branches == []
    w.fork(5, 9)
    second = w.run["id"]
    assert [(b["id"], b["parent"], b["at"]) for b in w.branches] == [(first, None, 0), (second, first, 6)]
    assert w.branches[1]["label"] == w.run["labels"]["9"]
    # a branch that is continued is the same branch, under the id that it has now
    w.generate(2)
    third = w.run["id"]
    assert [b["id"] for b in w.branches] == [first, third]
    assert w.branches[1]["n_tokens"] == 9
    w.fork(7, 11)
    assert [(b["parent"], b["at"]) for b in w.branches] == [(None, 0), (first, 6), (third, 8)]
    before = w.readout()
    w.show_branch(0)
    assert (w.run["id"], w.run["tokens"]) == (first, ids)
    w.show_branch(w.branches[2]["id"])
    assert w.run["id"] == w.branches[2]["id"]
    assert (w.readout().log_probs == before.log_probs).all()
    # another prompt begins anew
    w.prompt = "Hello there"
    assert w.branches == []
    with pytest.raises(lw.LensError, match="of 0"):
        w.show_branch(0)


def test_a_branch_whose_states_were_let_go_is_run_again_from_its_recipe(model):
    w = model.lens(PROMPT)
    for token in range(3, 12):
        w.fork(4, token)
        w.show_branch(0)
    assert len(w.branches) == 10
    assert len(w._session._runs) <= 4
    w.show_branch(1)
    assert w.run["tokens"][-1] == 3
    assert len(w.branches) == 10
    whole = lw.read(model.run(w.prompt, reuse=False))
    assert np.abs(w.readout().log_probs - whole.log_probs).max() < 1e-4


def test_the_state_and_a_page_have_the_tree(model):
    w = model.lens(PROMPT)
    page = Page(w)
    first = w.run["id"]
    reply, _ = page.ask("run", again=first, fork={"position": 3, "token": 8})
    assert [b["id"] for b in w.branches] == [first, reply["value"]["run_id"]]
    reply, _ = page.ask("run", show=first)
    assert reply["value"] == {"run_id": first}
    assert w.run["id"] == first
    again = model.lens(state=json.loads(json.dumps(w.state)))
    told = [{**b, "id": None, "parent": None} for b in w.branches]
    assert [{**b, "id": None, "parent": None} for b in again.branches] == told
    assert again.branches[0]["id"] == again.run["id"]
    again.show_branch(1)
    assert again.run["tokens"][-1] == 8
    reply, _ = page.ask("run", show="gone")
    assert reply["error"]["type"] == "CellError"
    with pytest.raises(lw.LensError, match="state's branches"):
        model.lens(state={**w.state, "branches": "all"})


def test_two_branches_stand_side_by_side_and_then_one_again(model):
    w = model.lens(PROMPT)
    w.fork(5, 9)
    b = w.run["id"]
    n_tree = list(w.branches)
    w.compare_with(0)
    compared = w.run["compared"]
    assert w.view == "difference"
    assert compared["is_same"][:6] == [True] * 6
    assert not any(compared["is_same"][6:])
    numbers = lw.compare(model.run(PROMPT), model.run(w.prompt))
    page = Page(w)
    asked = {"layers": [3], "positions": list(range(len(w.run["tokens"]))), "site": "resid_post"}
    base = compared["base"]["id"]
    reply, _ = page.ask(
        "read", run_id=w.run["id"], against=base, lens="logit", k=2, track=[], metrics=[], show="top", **asked
    )
    assert "kl_from_reference" in [a["name"] for a in reply["value"]["arrays"]]
    assert numbers.kl_to_b is not None
    assert w.spine == {}
    assert w.state["recipe"] == {"ids": w.prompt}
    w.compare_with(None)
    assert (w.run["id"], w.view, "compared" in w.run) == (b, "after", False)
    assert w.branches == n_tree
    # an edit, a token, another prompt or a fork ends it too
    for ends in (lambda: w.generate(1), lambda: w.fork(2, 7), lambda: setattr(w, "prompt", PROMPT)):
        w.compare_with(0)
        ends()
        assert "compared" not in w.run
        assert w._session_of_one is None
        w.fork(1, 9)
    reply, _ = page.ask("run", beside=w.branches[0]["id"])
    assert "compared" in w.run
    page.ask("run", beside="")
    assert "compared" not in w.run
