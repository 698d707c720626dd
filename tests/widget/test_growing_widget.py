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
        assert replies[0]["error"]["message"] == "Another prompt was run meanwhile, and is shown."
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
