"""A model that was changed after its first readout is looked at again, whatever was changed."""

import copy
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from tiny import IDS, gpt2, llama
from torch import nn

import lenswidget as lw
from lenswidget.errors import ModelError
from lenswidget.models.facts import facts_of
from lenswidget.models.hf_model import text_config
from lenswidget.models.product import Timing
from lenswidget.readout import unembed

MODELS = {
    "GPT-2 (tied)": lambda: gpt2(initializer_range=0.3),
    "Llama": lambda: llama(initializer_range=0.3),
    "Llama, tied": lambda: llama(initializer_range=0.3, tie_word_embeddings=True),
}


@pytest.fixture(params=MODELS)
def hf_model(request):
    return MODELS[request.param]()


def is_gpt2(hf_model):
    return hasattr(hf_model, "transformer")


def blocks_of(hf_model):
    return hf_model.transformer.h if is_gpt2(hf_model) else hf_model.model.layers


def inject_lora(hf_model, targets):
    import peft

    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own advice on tied weights and layouts
        return peft.get_peft_model(hf_model, config).eval()


def lora_on_blocks(hf_model):
    inject_lora(hf_model, ["c_attn"] if is_gpt2(hf_model) else ["q_proj"])


def lora_on_the_unembed(hf_model):
    inject_lora(hf_model, ["lm_head"])


def lora_in_and_out(hf_model):
    with_lora = inject_lora(hf_model, ["lm_head"])
    assert lw.LanguageModel(hf_model).tail.linear() is None
    with_lora.unload()


def more_tokens(hf_model):
    hf_model.resize_token_embeddings(330, mean_resizing=False)


def another_unembed(hf_model):
    hf_model.lm_head = copy.deepcopy(hf_model.lm_head)
    hf_model.lm_head.weight = nn.Parameter(hf_model.lm_head.weight.detach() * -1.5)


def another_norm(hf_model):
    owner, name = (hf_model.transformer, "ln_f") if is_gpt2(hf_model) else (hf_model.model, "norm")
    norm = copy.deepcopy(getattr(owner, name))
    norm.weight.data.uniform_(0.5, 2)
    setattr(owner, name, norm)


def another_layer(hf_model):
    blocks = blocks_of(hf_model)
    block = copy.deepcopy(blocks[-1])
    for part in block.modules():
        if hasattr(part, "layer_idx"):
            part.layer_idx = len(blocks)
    blocks.append(block)
    set_depth(hf_model, len(blocks))


def fewer_layers(hf_model):
    owner, name = (hf_model.transformer, "h") if is_gpt2(hf_model) else (hf_model.model, "layers")
    setattr(owner, name, getattr(owner, name)[:2])
    set_depth(hf_model, 2)


def set_depth(hf_model, n):
    config = text_config(hf_model)
    config.num_hidden_layers = n
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * n


def patched_forward(hf_model):
    forward = hf_model.forward

    def doubled(*args, **kwargs):
        result = forward(*args, **kwargs)
        result.logits = result.logits * 2
        return result

    hf_model.forward = doubled


def optimiser_step(hf_model):
    optimizer = torch.optim.SGD(hf_model.parameters(), lr=0.5)
    ids = torch.tensor([IDS])
    hf_model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    hf_model.zero_grad()


def one_row_scaled(hf_model):
    hf_model.lm_head.weight.data[101] *= 10


def one_row_negated(hf_model):
    hf_model.lm_head.weight.data[101] *= -1


def two_rows_exchanged(hf_model):
    hf_model.lm_head.weight.data[[100, 101]] = hf_model.lm_head.weight.data[[101, 100]]


def one_number(hf_model):
    hf_model.lm_head.weight.data[101, 17] += 3


def norm_through_data(hf_model):
    norm = hf_model.transformer.ln_f if is_gpt2(hf_model) else hf_model.model.norm
    norm.weight.data[3] += 2


CHANGES = [
    lora_on_blocks,
    lora_on_the_unembed,
    lora_in_and_out,
    more_tokens,
    another_unembed,
    another_norm,
    another_layer,
    fewer_layers,
    patched_forward,
    lambda hf_model: hf_model.double(),
    lambda hf_model: hf_model.to(torch.bfloat16).float(),
    optimiser_step,
    one_row_scaled,
    one_row_negated,
    two_rows_exchanged,
    one_number,
    norm_through_data,
]
# these leave the logits as they were, or make them more
CHANGES_OF_FORM = {lora_in_and_out, more_tokens, CHANGES[9]}
NAMES = [change.__name__ for change in CHANGES]
NAMES[9:11] = ["to float64", "to bfloat16 and back"]


def last_row(model):
    """The last layer's log-probs of a new run, `[seq, d_vocab]` by token id, and the run."""
    # edits through `.data` are seen by the values alone
    facts_of(model.hf_model).fingerprint(values=True)
    run = model.run(IDS)
    cells = lw.Cells([run.n_layers - 1] * run.seq, range(run.seq))
    readout = lw.read(run, cells, k=run.d_vocab)
    log_probs = np.empty((run.seq, run.d_vocab))
    np.put_along_axis(log_probs, readout.ids.astype(np.int64), readout.log_probs, -1)
    return log_probs, run


def own_log_probs(hf_model):
    with torch.no_grad():
        logits = hf_model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    return logits.double().log_softmax(-1).numpy()


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_a_changed_model_reads_as_it_is_now(hf_model, change):
    model = lw.LanguageModel(hf_model)
    before, _ = last_row(model)
    change(hf_model)
    now = own_log_probs(hf_model)
    after, run = last_row(model)
    assert run.fidelity.ok
    assert run.n_layers == len(blocks_of(hf_model))
    assert after.shape == now.shape
    # float32 rounding of logits up to some tens
    np.testing.assert_allclose(after, now, atol=2e-5)
    if change not in CHANGES_OF_FORM:
        assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_the_fingerprint_moves_with_each_change(hf_model, change):
    facts = facts_of(hf_model)
    before = facts.fingerprint(values=True)
    assert facts.fingerprint(values=True) == facts.fingerprint() == before
    change(hf_model)
    after = facts.fingerprint(values=True)
    assert after > before
    assert facts.fingerprint(values=True) == after


def test_a_number_that_samples_miss_is_found_where_the_logits_are_off(hf_model, monkeypatch):
    # the packed weight is a copy, which can go stale; read as it is, the weight cannot
    monkeypatch.setattr(unembed, "timing", lambda: Timing(1, packed_ms=1.0, plain_ms=2.0))
    model = lw.LanguageModel(hf_model)
    facts = facts_of(hf_model)
    last_row(model)
    head = hf_model.get_output_embeddings().weight
    before = facts.fingerprint(values=True)
    for column in range(head.shape[1]):
        head.data[5, column] += 50
        if facts.fingerprint(values=True) == before:
            break
        before = facts.fingerprint(values=True)
    else:
        pytest.fail("every column of the row was sampled")
    with pytest.raises(ModelError, match=r"Run it again: model\.run\(run\.spec\)"):
        lw.read(model.run(IDS))
    after, run = last_row(model)
    assert run.fidelity.ok
    # float32 rounding of logits of some hundreds
    np.testing.assert_allclose(after, own_log_probs(hf_model), atol=5e-4)


def test_nothing_moves_where_nothing_has_changed(hf_model):
    model = lw.LanguageModel(hf_model)
    facts = facts_of(hf_model)
    _, run = last_row(model)
    before, anatomy, tail = facts.fingerprint(values=True), model.anatomy, model.tail
    hf_model.train()
    hf_model.eval()
    with model.trace(IDS):
        model.layers[1].resid_post *= 2
        inside = model.anatomy
    hf_model.generate(torch.tensor([IDS]), max_new_tokens=2, do_sample=False)
    last_row(model)
    assert facts.fingerprint(values=True) == before
    assert model.anatomy is inside is anatomy
    assert model.tail is tail is run.tail


def test_inside_a_trace_the_model_is_the_one_that_the_trace_began_with(hf_model):
    model = lw.LanguageModel(hf_model)
    facts = facts_of(hf_model)
    before = facts.fingerprint(values=True)
    with model.trace(IDS):
        # a module at whose input a trace waits has a forward of the trace's own
        _ = model.get(model.anatomy.blocks[1]).input
        assert facts.fingerprint(values=True) == before
    assert facts.fingerprint(values=True) == before


def test_a_fact_is_made_once_for_each_state_of_the_model(hf_model):
    facts, made = facts_of(hf_model), []

    def make():
        made.append(len(made))
        return made[-1]

    assert [facts.get("n", make), facts.get("n", make), facts.get("n", make, values=True)] == [0, 0, 0]
    one_row_scaled(hf_model)
    assert facts.get("n", make) == 0  # this edit moves no version counter
    assert facts.get("n", make, values=True) == facts.get("n", make) == 1
    optimiser_step(hf_model)
    assert facts.get("n", make) == 2


def test_a_part_that_takes_the_address_of_another_is_another(hf_model):
    facts = facts_of(hf_model)
    before = facts.fingerprint()
    shape = hf_model.lm_head.weight.shape
    for _ in range(3):  # what is freed first is often given out next
        del hf_model.lm_head
        gc.collect()
        hf_model.lm_head = nn.Linear(shape[1], shape[0], bias=False)
        after = facts.fingerprint()
        assert after > before
        before = after


def test_offloaded_weights_do_not_look_changed_after_each_forward(tmp_path):
    from accelerate import dispatch_model

    hf_model = llama()
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu"}
    places |= dict.fromkeys(["model.layers", "model.norm", "lm_head"], "disk")
    spread = dispatch_model(hf_model, places, main_device="cpu", offload_dir=tmp_path)
    model = lw.LanguageModel(spread)
    anatomy = model.anatomy
    model.run(IDS)
    assert model.anatomy is anatomy


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_kept_does_not_keep_the_model(make):
    hf_model = make()
    gone = weakref.ref(hf_model)
    model = lw.LanguageModel(hf_model)
    last_row(model)
    patched_forward(hf_model)  # a closure that holds the model
    facts_of(hf_model).fingerprint(values=True)
    del model, hf_model
    gc.collect()
    assert gone() is None
