"""Prompts of one length in one forward: the numbers of single runs, or else single runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import gpt2, language_model, llama

import lenswidget as lw
from lenswidget.survey import batches, work

QUIET = {"progress": False}
# lengths 3, 3, 3, 4, 4 and 6; answers of one token, of several, and of two forms; foils
ROWS = [
    {"prompt": [5, 17, 40], "target": 7, "foil": 9},
    {"prompt": [9, 3, 8], "target": " Eiffel Tower is", "foil": 2},
    {"prompt": [1, 2, 250], "target": [4, " Paris"], "foil": " Paris, the"},
    {"prompt": [1, 2, 3, 4], "target": 4, "foil": 5},
    {"prompt": [4, 3, 2, 1], "target": " heart of France", "foil": 6},
    {"prompt": [8, 8, 8, 8, 8, 8], "target": 11, "foil": 12},
]


@pytest.fixture(params=[llama, gpt2])
def model(request):
    return language_model(request.param)


def count_forwards(model):
    """The batch size of every forward, as the embedding sees them."""
    sizes = []
    model.hf_model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    return sizes


def test_prompts_of_one_length_have_the_numbers_of_single_runs(model, monkeypatch):
    sizes = count_forwards(model)
    together = lw.survey(model, ROWS, foil="foil", **QUIET)
    assert max(sizes) > 2
    monkeypatch.setattr(batches, "MOST_SEQUENCES", 1)
    sizes.clear()
    alone = lw.survey(model, ROWS, foil="foil", **QUIET)
    assert max(sizes) == 1
    assert len(together) == len(ROWS)
    for one, other in zip(together.measured, alone.measured, strict=True):
        assert (one.row, one.error) == (other.row, "")
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2e-5)
        np.testing.assert_allclose(one.foil_log_probs, other.foil_log_probs, atol=2e-5)
        np.testing.assert_array_equal(one.ranks, other.ranks)


def test_in_a_batch_too_the_last_layer_has_the_models_own_numbers(model):
    found = lw.survey(model, ROWS[:3], **QUIET).measured
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([row["prompt"] for row in ROWS[:3]])).logits[:, -1].double()
    assert found[0].log_probs[-1] == pytest.approx(logits[0].log_softmax(-1)[7].item(), abs=1e-5)
    assert found[0].ranks[-1] == int((logits[0] > logits[0, 7]).sum())


def test_a_lens_and_another_site_are_read_in_batches_as_alone(model, monkeypatch):
    def half(layer, states):
        return states * 0.5 + layer

    options = {"lens": half, "site": "mlp_out", **QUIET}
    together = lw.survey(model, ROWS[:5], **options).by_layer()
    monkeypatch.setattr(batches, "MOST_SEQUENCES", 1)
    pd.testing.assert_frame_equal(lw.survey(model, ROWS[:5], **options).by_layer(), together, atol=2e-5)


def test_a_model_whose_rows_do_not_stay_apart_is_run_one_prompt_at_a_time(model):
    """As a layer that normalises over the batch would, or experts with a limit."""
    alone = lw.survey(model, ROWS, **QUIET).by_layer()
    block = (getattr(model.hf_model, "transformer", None) or model.hf_model.model).get_submodule(
        "h.2" if hasattr(model.hf_model, "transformer") else "layers.2"
    )

    def mix(_module, inputs, _kwargs=None):
        states = inputs[0]
        return (states + 0.01 * (states.mean(0, keepdim=True) - states), *inputs[1:])

    block.register_forward_pre_hook(mix)
    sizes = count_forwards(model)
    mixed = lw.survey(model, ROWS, **QUIET).by_layer()
    # what `mix` adds to a prompt by itself is nothing
    pd.testing.assert_frame_equal(mixed, alone, atol=2e-5)
    assert len([size for size in sizes if size > 1]) == 1


def test_a_model_that_takes_one_sequence_at_a_time_is_given_no_more(model):
    def refuse(_module, inputs):
        if len(inputs[0]) > 1:
            raise ValueError("one at a time")

    alone = lw.survey(model, ROWS, **QUIET).by_layer()
    model.hf_model.get_input_embeddings().register_forward_pre_hook(refuse)
    pd.testing.assert_frame_equal(lw.survey(model, ROWS, **QUIET).by_layer(), alone, atol=2e-5)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_survey_that_was_killed_between_batches_ends_with_the_same_bits(model, tmp_path, n):
    monkeypatched = [*ROWS, *({**row, "prompt": row["prompt"][::-1]} for row in ROWS)]
    whole = lw.survey(model, monkeypatched, **QUIET).by_layer()

    def stop(done, total):
        if done == n:
            raise KeyboardInterrupt

    out = tmp_path / "survey.jsonl"
    with pytest.raises(KeyboardInterrupt):
        lw.survey(model, monkeypatched, out=out, progress=stop)
    assert len(out.read_text().splitlines()) == n + 1
    again = lw.survey(model, monkeypatched, out=out, **QUIET).by_layer()
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


def test_many_rows_go_by_in_windows_and_come_back_in_their_order(model, monkeypatch):
    monkeypatch.setattr(work, "WINDOW", 2)
    found = lw.survey(model, iter(ROWS), edits=lw.Edit("zero", site="mlp_out", layers=1), **QUIET)
    assert [each.row for each in found.measured] == [i for i in range(len(ROWS)) for _ in range(2)]
    assert [each.condition for each in found.measured] == ["plain", "edited"] * len(ROWS)
