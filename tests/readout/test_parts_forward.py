"""A cell is taken apart from its own column, after the keys that the run kept; else the whole prompt runs."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
import transformers as hf
from makes import made
from tiny_models import tiny_config, tiny_model

import lenswidget as lw

IDS = torch.tensor([[11, 12, 13, 14, 15, 16, 17, 18]])
LAYER, POSITION, TOKEN = 3, 5, 9
BYS = ("part", "head", "source", "neuron")


@contextlib.contextmanager
def tokens_run(model):
    """How many tokens the model's forwards get, each."""
    seen = []
    handle = model.hf_model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: seen.append(args[0].shape[-1])
    )
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def model():
    return made("sequential")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def taken_apart(run, by="part", layer=LAYER, position=POSITION):
    """The attribution, and how many tokens were run for it."""
    _ = run.local_model.anatomy.units, run.local_model.anatomy.split  # found once
    with tokens_run(run.local_model) as seen:
        found = lw.attribute(run, layer, position, token=TOKEN, by=by)
    return found, seen


def whole(run, by="part", layer=LAYER, position=POSITION):
    """The same from the whole prompt, which is what a run without keys leaves."""
    found, seen = taken_apart(dataclasses.replace(run, kept=None), by, layer, position)
    assert seen == [run.seq]
    return found


def assert_equal(found, expected):
    assert found.names == expected.names
    size = np.abs(expected.predicted).sum()
    # one column's kernels sum in another order
    np.testing.assert_allclose(found.predicted, expected.predicted, atol=1e-6 * size)
    np.testing.assert_allclose(found.measured, expected.measured, atol=1e-6 * size)
    assert abs(found.remainder) < 3e-6 * size


@pytest.mark.parametrize("by", BYS)
@pytest.mark.parametrize("position", [0, 1, POSITION, 7])
def test_one_column_runs_and_gives_the_terms_of_the_whole_prompt(model, by, position):
    run = model.run(IDS)
    found, seen = taken_apart(run, by, position=position)
    assert seen == [1]
    assert_equal(found, whole(run, by, position=position))


def test_attention_of_a_column_alone_has_all_columns_and_nothing_later(model):
    run = model.run(IDS)
    _ = model.anatomy.units, model.anatomy.split
    with tokens_run(model) as seen:
        found = lw.attention(run, LAYER, POSITION)
    assert seen == [1]
    expected = lw.attention(dataclasses.replace(run, kept=None), LAYER, POSITION)
    assert found.weights.shape == expected.weights.shape == (4, 8)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-6)
    np.testing.assert_allclose(found.value_weighted, expected.value_weighted, atol=1e-6)
    assert not found.weights[:, POSITION + 1 :].any()


def test_a_run_that_took_columns_over_has_their_keys(model):
    first = model.run(IDS[:, :6])
    run = model.run(IDS, reuse=first)
    assert run.reuse.n_columns
    for position in (2, 5, 7):
        found, seen = taken_apart(run, position=position)
        assert seen == [1]
        assert_equal(found, whole(run, position=position))


def source(model):
    return model.run(IDS.flip(1))


EDITS = {
    "a head zeroed here": lambda m: lw.Edit("zero", site="attn_out", layers=1, positions=POSITION, heads=[2]),
    "all scaled": lambda m: lw.Edit("scale", site="mlp_out", layers=[0, 2], strength=0.5),
    "a stream entering a block": lambda m: lw.Edit("scale", site="resid_pre", layers=[0, 2], strength=0.9),
    "a stream leaving a block": lambda m: lw.Edit("scale", site="resid_post", layers=[1], strength=0.9),
    "steered before": lambda m: lw.Edit("steer", layers=1, positions=[2, 3], tokens=[TOKEN], strength=0.5),
    "patched before": lambda m: lw.Edit("patch", layers=1, positions=[1, 2], source=source(m)),
    "steered later": lambda m: lw.Edit("steer", layers=1, positions=[6], tokens=[TOKEN], strength=0.5),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_made_in_the_column(model, name):
    run = model.run(IDS, edits=[EDITS[name](model)])
    for by in ("part", "head"):
        found, seen = taken_apart(run, by)
        assert seen == [1]
        assert_equal(found, whole(run, by))


OF_OTHER_COLUMNS = {
    "steered by a common size": lambda m: lw.Edit("steer", layers=1, tokens=[TOKEN], strength=0.5),
    "patched": lambda m: lw.Edit("patch", layers=1, positions=[POSITION], source=source(m)),
    "the mean over all": lambda m: lw.Edit("mean", site="mlp_out", layers=1, positions=[POSITION]),
}


@pytest.mark.parametrize("name", OF_OTHER_COLUMNS)
def test_an_edit_that_looks_at_other_columns_runs_them(model, name):
    run = model.run(IDS, edits=[OF_OTHER_COLUMNS[name](model)])
    found, seen = taken_apart(run)
    assert seen[-1] == run.seq
    assert abs(found.remainder) < 3e-6 * np.abs(found.predicted).sum()


def test_keys_that_are_gone_or_give_another_state_are_not_used(model):
    run = model.run(IDS)
    expected = whole(run)
    part = run.kept.keys[0]
    pairs = tuple((keys * 1.001, values * 1.001) for keys, values in part.pairs)
    run.kept.keys = (dataclasses.replace(part, pairs=pairs),)
    found, seen = taken_apart(run)
    assert seen == [1, run.seq]
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    run.kept.forget()
    found, seen = taken_apart(run)
    assert seen == [run.seq]
    np.testing.assert_array_equal(found.predicted, expected.predicted)


def test_a_model_whose_forward_cannot_be_split_runs_whole():
    model = lw.LanguageModel(tiny_model(tiny_config(hf.Qwen3NextConfig)))
    assert model.anatomy.split.why_not
    found, seen = taken_apart(model.run(IDS), by="head")
    assert seen == [8]
    assert abs(found.remainder) < 3e-6 * np.abs(found.predicted).sum()
