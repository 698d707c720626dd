"""Going on from a cache, lengths of masks, and what a model keeps from the run before."""

import copy

import numpy as np
import pytest
import torch
from tiny import gpt2, llama
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import lenswidget as lw
from lenswidget.errors import PromptError

TEXT = torch.randint(3, 211, (1, 16), generator=torch.Generator().manual_seed(1))
STEP = {
    "max_new_tokens": 1,
    "do_sample": False,
    "pad_token_id": 0,
    "output_logits": True,
    "return_dict_in_generate": True,
}


def gap(one, other):
    return float((one - other).abs().max())


def logits(hf_model, ids, **kwargs):
    with torch.no_grad():
        return hf_model(ids, **kwargs).logits


def cached(hf_model, n):
    """The cache of the first n tokens, under the name that this model has for it."""
    with torch.no_grad():
        out = hf_model(TEXT[:, :n], use_cache=True)
    return {key: out[key] for key in ("past_key_values", "cache_params") if out.get(key) is not None}


def traced(model, ids, **kwargs):
    with torch.no_grad(), model.trace(ids, **kwargs) as tracer:
        return tracer.result.logits


# --- masks and positions of another length


@pytest.mark.parametrize("n", [10, 15, 17, 30])
@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
def test_what_goes_with_each_token_has_a_value_for_each(name, n):
    model = lw.LanguageModel(llama())
    values = torch.ones(1, n, dtype=torch.long)
    said = f"{name} is for {n} tokens, but the prompt has 16. Give one value"
    for ask in (
        lambda: model.trace({"input_ids": TEXT, name: values}),
        lambda: model.trace(TEXT, **{name: values}),
        lambda: model.generate(TEXT, **{name: values}, max_new_tokens=1),
        lambda: model.run({"input_ids": TEXT, name: values}),
        lambda: model.lens({"input_ids": TEXT, name: values}),
    ):
        with pytest.raises(PromptError, match=said):
            ask()


def test_a_mask_has_a_row_for_each_prompt():
    model = lw.LanguageModel(llama())
    with pytest.raises(PromptError, match="has 1 rows, but there are 2 prompts"):
        model.trace(TEXT.expand(2, -1), attention_mask=torch.ones(1, 16, dtype=torch.long))


def test_with_a_cache_a_mask_is_for_the_new_tokens_or_for_all():
    model = lw.LanguageModel(llama(initializer_range=0.3))
    expected = logits(model.hf_model, TEXT)[:, 10:]
    for n in (6, 16):
        mask = torch.ones(1, n, dtype=torch.long)
        found = traced(model, TEXT[:, 10:], attention_mask=mask, **cached(model.hf_model, 10))
        assert gap(found, expected) < 1e-4
    with pytest.raises(
        PromptError, match="for 10 tokens, but the prompt has 6 or, with those in the cache, 16"
    ):
        model.trace(
            TEXT[:, 10:],
            attention_mask=torch.ones(1, 10, dtype=torch.long),
            **cached(model.hf_model, 10),
        )


def test_a_mask_of_four_axes_is_taken():
    model = lw.LanguageModel(llama(initializer_range=0.3))
    causal = torch.full((16, 16), torch.finfo(torch.float32).min).triu(1)[None, None]
    assert gap(traced(model, TEXT, attention_mask=causal), logits(model.hf_model, TEXT)) < 1e-4
    with pytest.raises(PromptError, match="for 12 tokens, but the prompt has 16"):
        model.trace(TEXT, attention_mask=causal[:, :, :12, :12])


# --- several tokens on a cache

SSM = {
    "vocab_size": 211,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "initializer_range": 0.3,
}
MIXED = {
    "vocab_size": 211,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
ONE_BY_ONE = {
    "mamba": SSM,
    "falcon_mamba": SSM,
    "jamba": {
        **MIXED,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
    },
}
AT_ONCE = {
    "mamba2": {**SSM, "num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2},
    "lfm2": {**MIXED, "layer_types": ["conv", "conv", "full_attention"]},
    "llama": MIXED,
}


def built(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(ONE_BY_ONE | AT_ONCE)[name])
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_model_that_forgets_its_cache_is_given_single_tokens(name):
    model = lw.LanguageModel(built(name))
    hf_model = model.hf_model
    whole = logits(hf_model, TEXT)
    raw = logits(hf_model, TEXT[:, 12:], **cached(hf_model, 12))
    assert gap(raw, whole[:, 12:]) > 0.1  # what is refused would be wrong
    with pytest.raises(
        PromptError, match=r"with 4 tokens, but .* forgets what is in the cache\. Give one token"
    ):
        model.trace(TEXT[:, 12:], **cached(hf_model, 12))
    cache = cached(hf_model, 12)
    for at in range(12, 16):
        assert gap(traced(model, TEXT[:, at : at + 1], **cache), whole[:, at : at + 1]) < 1e-3


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_model_that_keeps_its_cache_takes_several_tokens(name):
    model = lw.LanguageModel(built(name))
    expected = logits(model.hf_model, TEXT)[:, 12:]
    assert gap(traced(model, TEXT[:, 12:], **cached(model.hf_model, 12)), expected) < 1e-3


def test_an_empty_cache_takes_any_text():
    model = lw.LanguageModel(MambaForCausalLM(MambaConfig(**SSM)).eval())
    with torch.no_grad(), model.trace(TEXT, use_cache=True) as tracer:
        cache = tracer.result.cache_params
    cache.reset()
    assert gap(traced(model, TEXT, cache_params=cache), logits(model.hf_model, TEXT)) < 1e-4


@pytest.mark.parametrize("make", [llama, gpt2])
def test_generate_takes_the_whole_text_with_a_cache(make):
    model = lw.LanguageModel(make(initializer_range=0.3))
    expected = logits(model.hf_model, TEXT)[:, -1]
    for n, ids in ((15, TEXT), (12, TEXT), (12, TEXT[:, 12:])):
        with torch.no_grad(), model.generate(ids, **cached(model.hf_model, n), **STEP) as tracer:
            found = tracer.result.logits[0]
        assert gap(found, expected) < 1e-4, (n, ids.shape)


def test_generate_refuses_a_cache_that_does_not_count():
    model = lw.LanguageModel(built("mamba2"))
    (cache,) = cached(model.hf_model, 12).values()
    with pytest.raises(PromptError, match="does not say how many tokens it holds"):
        model.generate(TEXT, past_key_values=cache, **STEP)


# --- what ran before


def with_rope(**rope):
    torch.manual_seed(0)
    config = LlamaConfig(
        **MIXED, max_position_embeddings=16, rope_parameters={"rope_theta": 1e4, "factor": 4.0, **rope}
    )
    return LlamaForCausalLM(config).eval()


LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + i for i in range(8)],
}


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic"}, LONGROPE, {"rope_type": "default"}])
def test_a_run_does_not_depend_on_longer_texts_before(rope):
    hf_model = with_rope(**rope)
    long = torch.randint(3, 211, (1, 40), generator=torch.Generator().manual_seed(2))
    fresh = {n: logits(copy.deepcopy(hf_model), long[:, :n]) for n in (12, 16)}
    logits(hf_model, long)  # before it is wrapped, too
    model = lw.LanguageModel(hf_model)
    moved = 0.0
    for n in (16, 12, 16):
        logits(hf_model, long)
        moved = max(moved, gap(logits(hf_model, long[:, :n]), fresh[n]))
        assert gap(traced(model, long[:, :n]), fresh[n]) == 0
        logits(hf_model, long)
        found = lw.read(model.run(long[0, :n].tolist()), [(2, n - 1)], k=211)
        expected = fresh[n][0, -1].double().log_softmax(-1)[torch.from_numpy(found.ids[0].astype(np.int64))]
        np.testing.assert_allclose(found.log_probs[0], expected, atol=1e-4)
        logits(hf_model, long)
        with torch.no_grad(), model.generate(long[:, :n], **STEP) as tracer:
            assert gap(tracer.result.logits[0], fresh[n][:, -1]) < 1e-4
    assert (moved > 0.5) == (rope["rope_type"] == "dynamic")  # by itself the model remembers


def test_a_rope_that_a_person_has_changed_stays_changed():
    model = lw.LanguageModel(llama(initializer_range=0.3))
    before = traced(model, TEXT)
    model.hf_model.model.rotary_emb.inv_freq.mul_(0.5)
    expected = logits(model.hf_model, TEXT)
    assert gap(expected, before) > 0.1
    assert gap(traced(model, TEXT), expected) == 0
    assert gap(traced(model, TEXT), expected) == 0


def test_the_short_text_draws_no_random_numbers():
    model = lw.LanguageModel(with_rope(rope_type="dynamic"))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    traced(model, TEXT)
    assert torch.equal(torch.rand(3), expected)
