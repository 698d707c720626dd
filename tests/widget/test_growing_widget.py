"""The widget takes over what another prompt shares with the one it shows."""

import numpy as np
import pytest
from makes import made
from tiny import PROMPT, language_model

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
