"""Runs that are continued token by token, against generate and against whole runs."""

import numpy as np
import pytest
import torch
import transformers as hf
from makes import MAKES, made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw
from lenswidget.errors import EditError, LensError, PromptError
from lenswidget.interventions.recipe import Sampling
from lenswidget.interventions.sampling import next_token
from lenswidget.readout.local_engine import LocalEngine

IDS = [5, 17, 40, 200, 3, 99, 120, 7]
NATS = 2e-3


def grown(model, run, n_tokens=6, **sampling):
    return list(LocalEngine(model).extend(run, n_tokens, **sampling))


def check_same(run, whole):
    ours, theirs = lw.read(run, k=2, metrics=("entropy",)), lw.read(whole, k=2, metrics=("entropy",))
    assert (ours.positions == theirs.positions).all()
    assert np.abs(ours.log_probs - theirs.log_probs).max() < NATS
    assert np.abs(ours.entropy_nats - theirs.entropy_nats).max() < NATS
    assert run.fidelity.ok


def own_ids(model, ids, n_tokens, **options):
    """What transformers' own generate adds to the ids."""
    given = torch.tensor([ids])
    with torch.no_grad():
        found = model.hf_model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=n_tokens, do_sample=False, **options
        )
    return found[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", MAKES)
def test_greedy_tokens_are_those_of_generate(name):
    model = made(name)
    runs = grown(model, model.run(IDS))
    assert runs[-1].token_ids.tolist() == IDS + own_ids(model, IDS, 6)[: len(runs)]
    assert [run.seq for run in runs] == list(range(9, 9 + len(runs)))
    check_same(runs[-1], model.run(runs[-1].token_ids.tolist(), reuse=False))


def test_a_window_that_rolls_over_generates_as_generate_does():
    config = tiny_config(hf.MistralConfig)
    config.sliding_window = 16
    model = lw.LanguageModel(tiny_model(config))
    runs = grown(model, model.run(IDS), 14)
    assert runs[-1].token_ids.tolist() == IDS + own_ids(model, IDS, 14)
    check_same(runs[-1], model.run(runs[-1].token_ids.tolist(), reuse=False))


def test_the_demo_model_continues_as_generate_does():
    model = lw.demo_model()
    prompt = "The Eiffel Tower is in the city of"
    run = model.run(prompt)
    runs = grown(model, run, 5)
    ids = run.token_ids.tolist()
    assert runs[-1].token_ids.tolist() == ids + own_ids(model, ids, 5)
    assert runs[0].reuse.n_columns == len(ids)
    assert "Continued from a cache" in runs[0].reuse.text
    check_same(runs[-1], model.run(runs[-1].token_ids.tolist(), reuse=False))


def test_columns_that_are_there_are_not_run_or_decoded_again(monkeypatch):
    model = made("sequential")
    run = model.run(IDS)
    lw.read(run)
    given = []
    model.hf_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    grown(model, run, 1)  # with what is tried once
    given.clear()
    runs = grown(model, run, 4)
    assert given == [1, 1, 1, 1]
    for each in runs:
        n = each.seq
        before = lw.read(run).grid("log_probs")
        assert (lw.read(each).grid("log_probs")[:, : len(IDS)] == before).all()
        assert each.stream("resid_post").shape[1] == n
    # only the new columns take memory
    parts = runs[-1].stream("resid_post").parts
    assert [part.shape[1] for part in parts] == [8, 1, 1, 1, 1]
    assert parts[0].data_ptr() == run.stream("resid_post").data_ptr()


def test_a_run_that_was_continued_can_be_gone_on_from():
    model = made("sequential")
    last = grown(model, model.run(IDS), 4)[-1]
    assert last.kept.n_columns == last.seq == 12
    other = [*last.token_ids.tolist()[:10], 77]
    fork = model.run(other, reuse=last)
    assert fork.reuse.n_columns == 10
    check_same(fork, model.run(other, reuse=False))


def test_a_run_that_is_stopped_keeps_what_it_has():
    model = made("sequential")
    steps = LocalEngine(model).extend(model.run(IDS), 40)
    runs = [next(steps) for _ in range(3)]
    steps.close()
    assert runs[-1].kept.n_columns == runs[-1].seq == 11
    check_same(runs[-1], model.run(runs[-1].token_ids.tolist(), reuse=False))


def test_a_run_that_kept_nothing_is_run_whole_once():
    model = made("sequential")
    runs = grown(model, model.run(IDS, reuse=False), 4)
    assert [run.reuse.n_columns for run in runs] == [0, 9, 10, 11]
    assert runs[-1].token_ids.tolist() == IDS + own_ids(model, IDS, 4)


def test_it_ends_at_a_token_that_ends_a_text():
    model = made("sequential")
    ids = grown(model, model.run(IDS))[-1].token_ids.tolist()
    model.hf_model.generation_config.eos_token_id = [ids[10], 511]
    runs = grown(model, model.run(IDS))
    n = 1 + ids[8:].index(ids[10])
    assert runs[-1].token_ids.tolist() == ids[: 8 + n] == IDS + own_ids(model, IDS, 6)


def test_it_ends_where_the_models_positions_end():
    model = made("learnt positions")
    n = model.hf_model.config.n_positions
    runs = grown(model, model.run([*range(1, n - 1)]), 40)
    assert [run.seq for run in runs] == [n - 1, n]


# --- sampling


def test_draws_go_by_seed_and_position_alone():
    model = made("sequential")
    options = {"temperature": 1.2, "top_p": 0.9, "seed": 11}
    run = model.run(IDS)
    runs = grown(model, run, 6, **options)
    again = grown(model, grown(model, run, 2, **options)[-1], 4, **options)
    assert again[-1].token_ids.tolist() == runs[-1].token_ids.tolist()
    assert runs[-1].spec.sampling == Sampling(8, 1.2, 0.9, 11)
    assert again[-1].spec.sampling == Sampling(10, 1.2, 0.9, 11)
    others = {tuple(grown(model, run, 6, **{**options, "seed": i})[-1].token_ids.tolist()) for i in range(4)}
    assert len(others) > 1
    state = torch.get_rng_state()
    grown(model, run, 2, **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_have_the_softmaxs_frequencies_among_the_tokens_that_make_up_top_p():
    probs = torch.tensor([0.05, 0.5, 0.25, 0.15, 0.05])
    logits = 0.5 * probs.log() + 3  # at temperature 0.5 these are the probabilities
    n = 4000
    drawn = [next_token(logits, Sampling(0, 0.5, 1.0, 1), position) for position in range(n)]
    found = torch.bincount(torch.tensor(drawn), minlength=5) / n
    assert (found - probs).abs().max() < 0.03
    drawn = [next_token(logits, Sampling(0, 0.5, 0.75, 1), position) for position in range(n)]
    found = torch.bincount(torch.tensor(drawn), minlength=5) / n
    assert (found - torch.tensor([0, 2 / 3, 1 / 3, 0, 0])).abs().max() < 0.03
    assert {next_token(logits, Sampling(0, 0.5, 1e-6, 1), position) for position in range(50)} == {1}


# --- edits


@pytest.mark.parametrize(
    "edit",
    [
        lambda: lw.Edit("steer", layers=1, tokens=7, strength=2.0),
        lambda: lw.Edit("steer", layers=1, positions="generated", tokens=7, strength=2.0),
        lambda: lw.Edit("project_out", layers=[1, 2], tokens=(7, 8)),
        lambda: lw.Edit("zero", site="mlp_out", layers=1, positions="generated"),
        lambda: lw.Edit("scale", layers=2, positions=slice(3, None), strength=0.5),
        lambda: lw.Edit("swap", layers=2, tokens=(7, 8), is_live=True),
        lambda: lw.Edit("zero", site="attn_out", layers=1, positions=-1),
        lambda: lw.Edit("zero", layers=-1, positions=[2, 5]),
        lambda: lw.Edit("zero", site="attn_out", layers=1, positions="prompt"),
        lambda: lw.Edit("zero", layers=1, positions=2, is_on=False),
    ],
)
def test_edits_are_made_as_a_generation_makes_them_and_as_the_recipe_says(edit):
    model, edits = made("sequential"), [edit()]
    runs = grown(model, model.run(IDS, edits=edits), 5)
    assert [len(run.token_ids) for run in runs] == [9, 10, 11, 12, 13]
    ids = runs[-1].token_ids.tolist()
    with model.generate(IDS, edits=edits, max_new_tokens=5, do_sample=False) as tracer:
        for _step in tracer.steps:
            pass
    assert tracer.result[0].tolist() == ids
    # the recipe of the longer prompt, run whole as one prompt, gives the same
    whole = model.run(runs[-1].spec, reuse=False)
    check_same(runs[-1], whole)
    states = [run.states("attn_out", [2] * 13, range(13)) for run in (runs[-1], whole)]
    assert torch.allclose(*states, atol=1e-4)


def test_the_mean_over_a_prompt_is_not_that_over_a_longer_one():
    model = made("sequential")
    for positions in (None, [2, 5], "prompt"):
        run = model.run(IDS, edits=lw.Edit("mean", layers=1, positions=positions))
        with pytest.raises(EditError, match="would be another one once the prompt is longer"):
            grown(model, run)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: lw.Edit("patch", layers=1, positions="generated", source=model.run(IDS)),
        lambda model: lw.Edit("swap", layers=1, tokens=(7, 8)),
        lambda model: lw.Edit("patch", layers=1, source=model.run(IDS)),
    ],
)
def test_edits_that_no_generated_position_can_have_are_refused(edit):
    model = made("sequential")
    run = model.run(IDS, edits=edit(model))
    with pytest.raises(EditError, match='positions="prompt"'):
        grown(model, run)


# --- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_tokens": 0}, "0 tokens. Pass an integer from 1"),
        ({"temperature": -1}, "temperature=-1. Pass a number, 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0. Pass a number above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"seed": -3}, "seed=-3"),
        ({"seed": 2**31}, "seed=2147483648"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    model = made("sequential")
    with pytest.raises(LensError, match=said):
        grown(model, model.run(IDS), **{"n_tokens": 3, **options})


def test_what_no_token_follows_is_not_continued():
    config = tiny_config(hf.BertConfig)
    config.is_decoder = False
    model = lw.LanguageModel(tiny_model(config, hf.BertLMHeadModel))
    with pytest.raises(LensError, match="no token follows"):
        grown(model, model.run(IDS))
    model = made("sequential")
    padded = {"input_ids": torch.tensor([[0, *IDS]]), "attention_mask": torch.tensor([[0] + [1] * 8])}
    with pytest.raises(PromptError, match="more than token ids"):
        grown(model, model.run(padded))
