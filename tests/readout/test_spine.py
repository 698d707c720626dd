"""Surprise and entropy of a prompt's tokens, against a plain log-softmax of the model's own logits."""

import numpy as np
import pytest
import torch
import transformers as hf
from makes import made
from tiny import PROMPT, gpt2, language_model, llama, seeded

import lenswidget as lw

BERT = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def plain(hf_model, ids):
    """Surprise and entropy of each token after the first, from the model's logits in float64."""
    with torch.no_grad():
        log_probs = hf_model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[:-1]
    surprise = -log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return surprise.numpy(), -(log_probs.exp() * log_probs).sum(-1).numpy()


@pytest.mark.parametrize("make", [gpt2, llama])
def test_surprise_is_the_models_own_log_softmax(make):
    model = language_model(make)
    run = model.run(PROMPT)
    found = lw.spine(run)
    surprise, entropy = plain(model.hf_model, run.token_ids.tolist())
    assert np.isnan([found.surprise_nats[0], found.entropy_nats[0]]).all()
    assert found.surprise_nats.dtype == np.float32
    np.testing.assert_allclose(found.surprise_nats[1:], surprise, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.entropy_nats[1:], entropy, rtol=0, atol=1e-5)
    assert found.mean_nats == pytest.approx(surprise.mean(), abs=1e-5)


def test_a_run_in_part_and_edits_count():
    model = made("sequential")
    ids = list(range(3, 40))
    base = model.run(ids[:30])
    lw.spine(base)
    longer = model.run(ids, reuse=base)
    assert longer.reuse.n_columns == 30
    surprise, _ = plain(model.hf_model, ids)
    np.testing.assert_allclose(lw.spine(longer).surprise_nats[1:], surprise, rtol=0, atol=1e-4)
    edited = model.run(ids, edits=lw.Edit("zero", layers=1, positions=20))
    moved = np.abs(lw.spine(edited).surprise_nats[1:] - surprise) > 1e-4
    assert not moved[:20].any()
    assert moved[20:].any()


def test_each_cell_has_a_surprise_and_the_last_column_none():
    model = language_model(llama)
    run = model.run(PROMPT)
    found = lw.read(run, metrics=("surprise",))
    ids = run.token_ids.tolist()
    grid = found.grid("surprise_nats")
    assert np.isnan(grid[:, -1]).all()
    for position in range(run.seq - 1):
        tracked = lw.read(run, track=[ids[position + 1]]).grid("tracked_log_probs")[:, position, 0]
        np.testing.assert_allclose(grid[:, position], -tracked, rtol=0, atol=2e-6)
    assert "surprise_nats" in found.to_dataframe().columns


def test_one_token_has_no_surprise():
    model = language_model()
    found = lw.spine(model.run([5]))
    assert np.isnan(found.surprise_nats).tolist() == [True]
    assert np.isnan(found.mean_nats)


def test_a_masked_model_reads_what_stands_there_and_has_no_spine():
    model = lw.LanguageModel(seeded(hf.BertForMaskedLM, **BERT))
    run = model.run([5, 7, 9])
    with pytest.raises(lw.LensError, match="has seen the token"):
        lw.spine(run)
    found = lw.read(run, [(run.n_layers - 1, 1)], metrics=("surprise",), track=[7])
    assert found.surprise_nats[0] == pytest.approx(-found.tracked_log_probs[0, 0], abs=2e-6)
    with pytest.raises(lw.LensError, match="which is not a run"):
        lw.spine(model)
