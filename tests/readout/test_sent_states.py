"""Runs of states that another system captured: the numbers of our own runs, and faults seen in the badge."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import gpt2, language_model, llama

import lenswidget as lw
from lenswidget.errors import CellError, FidelityError, FidelityWarning, LensError

IDS = [5, 17, 40, 8]
N_LAYERS = 4


@pytest.fixture(params=[llama, gpt2])
def model(request):
    return language_model(request.param)


@pytest.fixture
def sent(model):
    """What a plain system has: hooks of its own on each block, and its own logits."""
    found = []
    hf_model = model.hf_model
    blocks = hf_model.transformer.h if hasattr(hf_model, "transformer") else hf_model.model.layers
    hooks = [blocks[0].register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0][0]))]
    hooks += [
        block.register_forward_hook(
            lambda _module, _inputs, out: found.append(out[0] if torch.is_tensor(out) else out[0][0])
        )
        for block in blocks
    ]
    with torch.no_grad():
        logits = hf_model(torch.tensor([IDS])).logits[0]
    for hook in hooks:
        hook.remove()
    return torch.stack(found), logits


def same(run, model):
    ours, theirs = lw.read(run, track=[7]), lw.read(model.run(IDS), track=[7])
    assert ours.ids.tolist() == theirs.ids.tolist()
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
    assert ours.tracked_ranks.tolist() == theirs.tracked_ranks.tolist()


def test_states_of_hooks_read_as_a_run_of_our_own(model, sent):
    states, logits = sent
    run = lw.Run.from_states(IDS, states, model, logits=logits)
    assert run.fidelity.ok
    assert run.fidelity.n_positions == len(IDS)
    same(run, model)
    # as nnsight saves them: a list of batches of one; as numbers of numpy; with the tail alone
    same(lw.Run.from_states(torch.tensor(IDS), [each[None] for each in states], model), model)
    # the tail knows no tokenizer, so that ids beyond the tokenizer's are listed too
    bare = lw.read(lw.Run.from_states(IDS, states.numpy(), model.tail, logits=logits[-1].numpy()), track=[7])
    whole = lw.read(model.run(IDS), track=[7])
    np.testing.assert_allclose(bare.tracked_log_probs, whole.tracked_log_probs, atol=1e-5)
    same(lw.Run.from_states(IDS, dict(zip(range(-1, N_LAYERS), states, strict=True)), model), model)


def test_a_file_of_vllms_shape_is_read(model, sent, tmp_path):
    """`hidden_states` `[seq, layers, d_model]` beside `token_ids`; its layer 0 is the embedding, here -1."""
    states, logits = sent
    path = tmp_path / "states.safetensors"
    save_file(
        {"token_ids": torch.tensor(IDS), "hidden_states": states.transpose(0, 1).contiguous()}, str(path)
    )
    run = lw.Run.from_states(None, path, model)
    assert run.fidelity.ok
    same(run, model)
    some = [1, 3]
    save_file({"states": states[[2, 4]].contiguous(), "logits": logits[-1:].clone()}, str(path))
    run = lw.Run.from_states(IDS, str(path), model, layers=some)
    found = lw.read(run)
    assert run.fidelity.ok
    finite = found.is_finite.reshape(-1, len(IDS)).all(1)
    assert finite.tolist() == [False, False, True, False, True]
    expected = lw.read(model.run(IDS)).ids.reshape(-1, len(IDS), 5)
    assert (found.ids.reshape(-1, len(IDS), 5)[[2, 4]] == expected[[2, 4]]).all()


@pytest.mark.parametrize("fault", ["off by one", "normed", "other ids", "other logits"])
def test_a_fault_in_what_was_sent_shows_in_the_badge(model, sent, fault):
    states, logits = sent
    ids = IDS
    if fault == "off by one":
        states = torch.cat([states[:1], states[:-1]])
    elif fault == "normed":  # as transformers' hidden_states[-1] is
        states = torch.cat([states[:-1], model.tail.prepare(states[-1])[None]])
    elif fault == "other logits":
        logits = logits.roll(1, -1)
    else:
        ids, logits = IDS[::-1], None
    run = lw.Run.from_states(ids, states, model, logits=logits)
    assert not run.fidelity.ok
    with pytest.warns(FidelityWarning, match="is not its own logits"):
        lw.read(run)
    with pytest.raises(FidelityError):
        lw.LensWidget(run)
    w = lw.LensWidget(run, strict=False)
    assert w.run["fidelity"]["ok"] is False
    w.close()


def test_states_in_16_bits_are_taken_for_what_they_are(model, sent):
    states, logits = sent
    assert lw.Run.from_states(IDS, states.bfloat16(), model, logits=logits.bfloat16()).fidelity.ok
    shifted = torch.cat([states[:1], states[:-1]]).bfloat16()
    assert not lw.Run.from_states(IDS, shifted, model, logits=logits.bfloat16()).fidelity.ok


def test_the_grid_of_sent_states_is_shown_and_its_cards_open(model, sent):
    states, logits = sent
    w = lw.LensWidget(lw.Run.from_states(IDS, states, model, logits=logits), lens="logit")
    assert w.run["tokens"] == IDS
    w.selection = {"layer": 2, "position": 3}
    expected = lw.decode(model.run(IDS), 2, 3)
    assert w.decoded["ids"][:5] == list(expected.ids[:5])
    with pytest.raises((LensError, Exception), match="where only a run was given"):
        w.prompt = [1, 2, 3]
    assert w.run["tokens"] == IDS
    w.close()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": [5, 17]}, LensError, r"for 2 token ids\. Give \[rows, 2, 32\]"),
        ({"ids": None}, LensError, "without token ids"),
        ({"ids": [5, 17, 40, 999]}, CellError, "999"),
        ({"rows": slice(3)}, LensError, "3 rows of states were given for 4 layers"),
        ({"rows": slice(2), "layers": [0, 1]}, LensError, "lack layer 3, the last"),
        ({"rows": slice(2), "layers": [3, 3]}, LensError, "Name each once"),
        ({"rows": slice(2), "layers": [3, 4]}, LensError, "Name each once"),
        ({"logits": [0.0] * 7}, LensError, r"Logits of shape \[1, 7\]"),
        ({"logits": [0] * 300}, LensError, r"Logits of shape \[1, 300\] were given. Give floats"),
        ({"logits": torch.zeros(len(IDS) + 1, 300)}, LensError, r"Logits of shape \[5, 300\]"),
        ({"states": "no-such-file"}, LensError, "cannot be read"),
        ({"states": [[1, 2]]}, LensError, "States of shape"),
        ({"states": ["a"]}, LensError, "no tensors of one shape"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(model, sent, change, error, message):
    states = change.get("states", sent[0][change.get("rows", slice(None))])
    options = {name: change[name] for name in ("logits", "layers") if name in change}
    with pytest.raises(error, match=message):
        lw.Run.from_states(change.get("ids", IDS), states, model, **options)
